"""CORE: 22 tasks of knowledge and sense, each read as which of some texts the model finds likeliest (arXiv 2406.11794).

Examples, shots and scores are chosen as nanochat chooses them, so that figures compare: the same shuffles, the same
tokens scored. A task whose file is not there is left out and told; without all 22 there is no CORE.
"""

# B texts of one example, T tokens, S scored tokens, V vocabulary

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_daemon.contract.core_tasks import CORE_TASKS, CoreTask, TaskKind
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import CoreScored
from trainer_daemon.contract.places import resolve_path
from trainer_daemon.contract.spec import EvalSpec
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.ranks import Ranks

SHUFFLE_SEED = 1337
SHOTS_SEED = 1234

Example = dict[str, Any]
Encode = Callable[[str], list[int]]
SpanLogits = Callable[[Tensor, Sequence[range]], list[Tensor]]
"""(B, T) ids, one range of positions a text -> for each text (S, V): the logits that predict the tokens there."""

_FIELDS: dict[TaskKind, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}


@dataclass(frozen=True, slots=True)
class Scored:
    """One text as the model reads it, and the positions of the tokens that are scored."""

    ids: list[int]
    span: range


def open_core(settings: EvalSpec, home: Path) -> dict[CoreTask, list[Example]]:
    """The examples of every task that is asked for and there. Raises SpecError without any, or for a damaged file."""
    folder = Path(resolve_path(settings.core_source, home, "eval.core_source"))
    wanted = [task for task in CORE_TASKS if settings.core_tasks is None or task.name in settings.core_tasks]
    tasks = {
        task: read_examples(folder / task.file, task, settings.core_examples)
        for task in wanted
        if (folder / task.file).is_file()
    }
    if not tasks:
        raise SpecError(f"eval.core_source: {folder} holds none of the tasks, such as {wanted[0].file}")
    return tasks


def span_logits(model: LanguageModel, ids: Tensor, spans: Sequence[range]) -> list[Tensor]:
    """(B, T), one range of positions a text -> for each text (S, V): the logits that predict the tokens there."""
    hidden = model.hidden_states(ids)  # (B, T, C)
    return [
        model.unembed(row[span.start - 1 : span.stop - 1]) for row, span in zip(hidden, spans, strict=True)
    ]


def in_one_figure(step: int, centred: Mapping[CoreTask, float], seconds: float) -> CoreScored:
    """What the tasks that were asked come to; `centred`: accuracy of each, 0 for guessing and 1 for all right."""
    missing = [task.name for task in CORE_TASKS if task not in centred]
    mean = sum(centred.values()) / len(centred)
    return CoreScored(step, None if missing else mean, mean, len(centred), missing, seconds)


def read_examples(file: Path, task: CoreTask, most: int | None) -> list[Example]:
    """At most so many examples, in the order of a fixed shuffle. Raises SpecError naming the line that is no example."""
    examples = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                example = json.loads(line)
                sound = all(isinstance(example[key], kind) for key, kind in _FIELDS[task.kind].items())
                options = example.get("choices") or example.get("context_options")
                sound = sound and (options is None or 0 <= example["gold"] < len(options))
            except (ValueError, KeyError, TypeError) as e:
                raise SpecError(f"{file}:{number} is no example of {task.name}: {e!r}") from e
            if not sound:
                raise SpecError(
                    f"{file}:{number} is no example of {task.name}: it needs {_FIELDS[task.kind]}"
                )
            examples.append(example)
    if len(examples) <= task.shots:
        raise SpecError(f"{file}: {len(examples)} examples are too few to show {task.shots} and ask another")
    random.Random(SHUFFLE_SEED).shuffle(examples)  # noqa: S311  # not a secret: everyone's shuffle is the same
    return examples[:most]


def texts_of(task: CoreTask, examples: Sequence[Example], number: int) -> list[str]:
    """The texts that an example stands for, solved ones before them: one an option, or the text without and with its end."""
    others = [other for other in range(len(examples)) if other != number]
    shown = random.Random(SHOTS_SEED + number).sample(others, task.shots)  # noqa: S311  # as above
    before = "".join(f"{_solved(task, examples[other])}\n\n" for other in shown)
    asked = examples[number]
    match task.kind:
        case "multiple_choice":
            return [f"{before}{asked['query']}{task.delimiter}{choice}" for choice in asked["choices"]]
        case "schema":
            ending = task.delimiter + asked["continuation"]
            return [before + context + ending for context in asked["context_options"]]
        case "language_modeling":
            # a space at its end would be a token of its own, which no whole text has there
            without = f"{before}{asked['context'].strip()}{task.delimiter}"
            return [without.strip(), without + asked["continuation"]]


def _solved(task: CoreTask, example: Example) -> str:
    match task.kind:
        case "multiple_choice":
            return f"{example['query']}{task.delimiter}{example['choices'][example['gold']]}"
        case "schema":
            return f"{example['context_options'][example['gold']]}{task.delimiter}{example['continuation']}"
        case "language_modeling":
            return f"{example['context'].strip()}{task.delimiter}{example['continuation']}"


def scored_texts(kind: TaskKind, texts: Sequence[list[int]], longest: int) -> list[Scored]:
    """Which tokens decide: where the options differ, or the ending. At least one a text; what is too long loses its head."""
    shortest = min(map(len, texts))
    if kind == "schema":
        same = _common_prefix([ids[::-1] for ids in texts])
        # the first token has nothing before it that could predict it
        found = [Scored(ids, range(len(ids) - min(max(same, 1), shortest - 1), len(ids))) for ids in texts]
    else:
        same = (
            min(_common_prefix(texts), shortest - 1) if kind == "multiple_choice" else _common_prefix(texts)
        )
        chosen = texts if kind == "multiple_choice" else texts[-1:]
        found = [Scored(ids, range(min(same, len(ids) - 1), len(ids))) for ids in chosen]
    return [_without_head(text, longest) for text in found]


def _common_prefix(texts: Sequence[list[int]]) -> int:
    """Tokens with which all of them begin."""
    shortest = min(map(len, texts))
    return next((i for i in range(shortest) if len({ids[i] for ids in texts}) > 1), shortest)


def _without_head(text: Scored, longest: int) -> Scored:
    over = max(0, len(text.ids) - longest)
    return Scored(text.ids[over:], range(max(1, text.span.start - over), text.span.stop - over))


def is_right(kind: TaskKind, texts: Sequence[Scored], logits: Sequence[Tensor], gold: int) -> bool:
    """Whether the option with the lowest mean loss is the right one, or the likeliest token is the text's at every place."""
    targets = [torch.tensor([text.ids[i] for i in text.span], device=logits[0].device) for text in texts]
    if kind == "language_modeling":
        return bool((logits[0].argmax(-1) == targets[0]).all())
    losses = [float(F.cross_entropy(z.float(), ids)) for z, ids in zip(logits, targets, strict=True)]
    return losses.index(min(losses)) == gold


@torch.no_grad()
def count_right(
    task: CoreTask,
    examples: Sequence[Example],
    span_logits: SpanLogits,
    encode: Encode,
    *,
    bos_id: int,
    longest: int,
    device: torch.device,
    rank: int,
    world_size: int,
) -> int:
    """Right answers among this rank's share of a task: examples r, r + W, …. The caller puts the model in evaluation mode."""
    return sum(
        _answers_rightly(task, examples, number, span_logits, encode, bos_id, longest, device)
        for number in range(rank, len(examples), world_size)
    )


def right_answers(
    model: LanguageModel, tokenizer: Tokenizer, ranks: Ranks, task: CoreTask, examples: Sequence[Example]
) -> int:
    """`count_right` of a model that is in evaluation mode, on the rank's own device."""
    return count_right(
        task,
        examples,
        partial(span_logits, model),
        tokenizer.encode,
        bos_id=tokenizer.bos_id,
        longest=model.longest_text,
        device=ranks.device,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )


def _answers_rightly(
    task: CoreTask,
    examples: Sequence[Example],
    number: int,
    span_logits: SpanLogits,
    encode: Encode,
    bos_id: int,
    longest: int,
    device: torch.device,
) -> bool:
    encoded = [[bos_id, *encode(text)] for text in texts_of(task, examples, number)]
    texts = scored_texts(task.kind, encoded, longest)
    width = max(len(text.ids) for text in texts)
    # what fills a row up stands after everything that is scored, where nothing looks
    rows = [text.ids + [bos_id] * (width - len(text.ids)) for text in texts]
    logits = span_logits(torch.tensor(rows, device=device), [text.span for text in texts])
    return is_right(task.kind, texts, logits, examples[number].get("gold", 0))
