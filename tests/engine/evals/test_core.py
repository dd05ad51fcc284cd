"""CORE: what is read of an example, which tokens decide, and that nothing about it ends or changes a run."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parallel import in_parallel
from tests.tiny import Recorder, build_tiny, run_tiny, tiny_spec
from trainer_daemon.contract.core_tasks import CORE_TASKS, CoreTask, TaskKind
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import CoreScored, CoreTaskScored, Notice
from trainer_daemon.contract.spec import EvalSpec, build_spec
from trainer_daemon.engine.data.prepare import with_absolute_paths
from trainer_daemon.engine.evals.core import (
    Scored,
    count_right,
    open_core,
    scored_texts,
    span_logits,
    texts_of,
)

SHARED = Path(__file__).parents[4] / "shared" / "data" / "eval"
TASKS = {task.name: task for task in CORE_TASKS}
COPA, WINOGRAD, OPERATORS = (TASKS[name] for name in ("copa", "winograd", "bigbench_operators"))

COPA_EXAMPLES: list[dict[str, Any]] = [
    {"query": f"Ann has {i} pears, so", "choices": ["she eats.", "it rains."], "gold": i % 2}
    for i in range(12)
]
WINOGRAD_EXAMPLES = [
    {"context_options": ["The cup fell because the cup", "The cup fell because the shelf"], "gold": 1}
    | {"continuation": f"was {i} inches wide."}
    for i in range(12)
]
OPERATOR_EXAMPLES = [{"context": f" op {i} = ", "continuation": f"{2 * i}"} for i in range(12)]
EXAMPLES: dict[CoreTask, list[dict[str, Any]]] = {
    COPA: COPA_EXAMPLES,
    WINOGRAD: WINOGRAD_EXAMPLES,
    OPERATORS: OPERATOR_EXAMPLES,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three tasks of our own making."""
    home = tmp_path_factory.mktemp("home")
    for task, examples in EXAMPLES.items():
        file = home / "data" / "core" / task.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return home


def test_the_table_is_the_bundles(home: Path) -> None:
    assert len(TASKS) == len(CORE_TASKS) == 22
    assert max(task.shots for task in CORE_TASKS) == 10
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data/eval here")
    told = re.split(r"^- name: ", (SHARED / "core_tasks.yaml").read_text(), flags=re.MULTILINE)[1:]
    for task, text in zip(CORE_TASKS, told, strict=True):
        fields = dict(re.findall(r"^  (\w+): (.*)$", text, re.MULTILINE))
        assert text.startswith(f"{task.name}\n")
        assert (task.file, task.kind) == (fields["file"], fields["type"])
        assert (task.shots, task.baseline) == (int(fields["shots"]), float(fields["baseline"]) / 100)
        assert task.delimiter == json.loads(fields["delimiter"])


def test_every_example_of_the_shared_files_can_be_asked() -> None:
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data/eval here")
    tasks = open_core(EvalSpec(core_source=str(SHARED / "core"), core_examples=40), SHARED)
    assert len(tasks) == 14
    for task, examples in tasks.items():
        for number in (0, len(examples) - 1):
            texts = scored_texts(
                task.kind, [list(t.encode()) for t in texts_of(task, examples, number)], 10**6
            )
            assert all(0 < text.span.start < text.span.stop == len(text.ids) for text in texts)


def test_an_example_becomes_the_texts_of_its_kind() -> None:
    assert texts_of(COPA, COPA_EXAMPLES, 3) == [
        "Ann has 3 pears, so she eats.",
        "Ann has 3 pears, so it rains.",
    ]
    assert texts_of(WINOGRAD, WINOGRAD_EXAMPLES, 0)[0] == "The cup fell because the cup was 0 inches wide."
    without, whole = texts_of(OPERATORS, OPERATOR_EXAMPLES, 4)
    *shown, asked = whole.split("\n\n")
    assert (asked, without.rpartition("\n\n")[2]) == ("op 4 = 8", "op 4 =")
    assert len(set(shown)) == 10
    assert asked not in shown
    assert all(re.fullmatch(r"op (\d+) = (\d+)", text) for text in shown)
    assert texts_of(OPERATORS, OPERATOR_EXAMPLES, 4) == [without, whole]
    assert texts_of(OPERATORS, OPERATOR_EXAMPLES, 5)[1].split("\n\n")[:-1] != shown


@pytest.mark.parametrize(
    ("kind", "texts", "spans"),
    [
        ("multiple_choice", ([0, 1, 2, 3], [0, 1, 4]), [range(2, 4), range(2, 3)]),
        # an option that another begins with is scored all the same
        ("multiple_choice", ([0, 1, 2], [0, 1]), [range(1, 3), range(1, 2)]),
        ("schema", ([0, 1, 2, 7, 8], [0, 3, 7, 8]), [range(3, 5), range(2, 4)]),
        ("schema", ([0, 1, 2], [0, 3]), [range(2, 3), range(1, 2)]),
        ("language_modeling", ([0, 1], [0, 1, 5, 6]), [range(2, 4)]),
        # where the ending changes a token before it, that token is part of what is asked
        ("language_modeling", ([0, 1, 2], [0, 1, 5, 6]), [range(2, 4)]),
    ],
)
def test_what_differs_or_ends_the_text_is_scored(
    kind: TaskKind, texts: tuple[list[int], ...], spans: list[range]
) -> None:
    assert [text.span for text in scored_texts(kind, texts, 100)] == spans


def test_a_text_that_is_too_long_loses_its_head() -> None:
    (text,) = scored_texts("language_modeling", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]], 4)
    assert text == Scored([2, 3, 4, 5], range(2, 4))


def knows(right: Callable[[bytes], bool]) -> Callable[[Tensor, Sequence[range]], list[Tensor]]:
    """A model of bytes that is sure of every byte of the texts it takes for right, and of none of the others."""

    def span_logits(ids: Tensor, spans: Sequence[range]) -> list[Tensor]:
        logits = []
        for row, span in zip(ids, spans, strict=True):
            targets = row[span.start : span.stop]
            text = bytes(row[1 : span.stop].tolist())
            sign = 9.0 if right(text) else -9.0
            logits.append(sign * torch.nn.functional.one_hot(targets, 256))
        return logits

    return span_logits


def count(task: CoreTask, right: Callable[[bytes], bool], rank: int = 0, world_size: int = 1) -> int:
    return count_right(
        task,
        EXAMPLES[task],
        knows(right),
        lambda text: list(text.encode()),
        bos_id=0,
        longest=10_000,
        device=torch.device("cpu"),
        rank=rank,
        world_size=world_size,
    )


def test_the_likeliest_option_counts_and_each_rank_asks_its_share() -> None:
    assert count(COPA, lambda text: text.endswith(b"she eats.")) == 6
    assert count(WINOGRAD, lambda text: b"the shelf was" in text) == 12
    assert count(WINOGRAD, lambda text: b"because the cup was" in text) == 0
    assert count(OPERATORS, lambda text: text.endswith(b"op 4 = 8")) == 1
    assert [count(COPA, lambda text: text.endswith(b"she eats."), rank, 3) for rank in range(3)] == [2, 2, 2]


def test_guessing_is_nought_and_all_right_is_one() -> None:
    assert [COPA.centred(share) for share in (0.5, 1.0, 0.0)] == [0.0, 1.0, -1.0]


def test_the_logits_of_a_span_are_those_that_predict_it(home: Path, tmp_path: Path) -> None:
    job = build_tiny(tiny_spec(), home, Recorder(), tmp_path)
    ids = torch.randint(
        300, (2, 50), generator=torch.Generator().manual_seed(0)
    )  # longer than a row of training
    with torch.no_grad():
        whole = job.model(ids)
        spans = span_logits(job.model, ids, [range(3, 5), range(20, 50)])
    torch.testing.assert_close(spans[0], whole[0, 2:4])
    torch.testing.assert_close(spans[1], whole[1, 19:49])


def test_core_is_asked_by_its_interval_and_changes_no_loss(home: Path, tmp_path: Path) -> None:
    plain, asked = Recorder(), Recorder()
    run_tiny(tiny_spec(), home, plain, tmp_path / "plain")
    run_tiny(tiny_spec("eval.core_every=5"), home, asked, tmp_path / "asked")
    assert asked.losses == plain.losses
    assert not plain.of(CoreScored)
    assert [e.step for e in asked.of(CoreScored)] == [5, 10, 12]
    last = asked.of(CoreScored)[-1]
    parts = [e for e in asked.of(CoreTaskScored) if e.step == 12]
    assert {e.task: e.examples for e in parts} == {task.name: 12 for task in EXAMPLES}
    assert (last.core, last.tasks, len(last.missing)) == (None, 3, 19)
    assert last.mean_centred == pytest.approx(sum(e.centred for e in parts) / 3)
    assert "of 3 of CORE's tasks" in last.in_words()


def test_what_cannot_be_asked_is_refused_before_training_and_never_ends_it(
    home: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=r'CORE has no task "hellaswags"; did you mean "hellaswag"'):
        build_spec({}, ["eval.core_tasks=['hellaswags']"])
    with pytest.raises(SpecError, match=r"eval\.core_examples"):
        build_spec({}, ["eval.core_examples=10"])
    with pytest.raises(SpecError, match=r"eval.core_source: there is nothing at .*nowhere"):
        build_tiny(tiny_spec("eval.core_every=5", "eval.core_source=nowhere"), home, Recorder(), tmp_path)
    with pytest.raises(SpecError, match=r"holds none of the tasks, such as world_knowledge/jeopardy_all"):
        build_tiny(tiny_spec("eval.core_every=5", "eval.core_tasks=['jeopardy']"), home, Recorder(), tmp_path)

    source = tmp_path / "core"
    (source / COPA.file).parent.mkdir(parents=True)
    (source / COPA.file).write_text(json.dumps(COPA_EXAMPLES[0]) + '\n{"query": "cut o')
    spec = tiny_spec("eval.core_every=5", f"eval.core_source={source}")
    with pytest.raises(SpecError, match=r"copa.jsonl:2 is no example of copa"):
        build_tiny(spec, home, Recorder(), tmp_path / "damaged")

    (source / COPA.file).write_text(json.dumps(COPA_EXAMPLES[0]) + "\n")
    seen = DeletesWhenAsked(source / COPA.file)
    finished, _ = run_tiny(spec, home, seen, tmp_path / "deleted")
    assert finished.reason == "completed"
    told = [e.text for e in seen.of(Notice) if e.level == "error"]
    assert [text.partition(" was not measured: eval.core_source")[0] for text in told] == [
        f"CORE at step {step}" for step in (5, 10, 12)
    ]


def test_a_folder_named_from_where_one_stands_is_found_by_a_daemon_that_stands_elsewhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = tiny_spec("eval.core_every=5", "eval.core_source=mine")
    assert with_absolute_paths(spec, home).eval.core_source == str(tmp_path / "mine")
    with pytest.raises(SpecError, match=r"eval\.core_source: there is nothing at .*nowhere"):
        with_absolute_paths(tiny_spec("eval.core_every=5", "eval.core_source=nowhere"), home)
    # one that asks for no CORE needs no folder
    assert with_absolute_paths(tiny_spec("eval.core_source=nowhere"), home).eval.core_source == "nowhere"


class DeletesWhenAsked(Recorder):
    """Someone tidies up while the run trains."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def emit(self, event: Any) -> None:
        super().emit(event)
        if len(self.losses) == 1:
            self._file.unlink(missing_ok=True)


@pytest.mark.slow
def test_two_ranks_count_together_and_learn_together_that_one_cannot_read(home: Path, tmp_path: Path) -> None:
    in_parallel([sys.executable, "-m", "tests.engine.evals.examined_rank", str(home), str(tmp_path)], 2)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["together"] == told["alone"]
    assert (
        told["refused"]
        == "CORE at step 0 was not measured: not all ranks find the same examples; see: logs/rank-*.log"
    )
