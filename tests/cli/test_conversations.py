"""A model trained on conversations of our own, asked as a user would ask it, by `chat` and `serve`."""

import re
import signal
import subprocess
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import openai
import pytest

from cli.serve import kept_token
from tests.cli.conftest import PROGRAM, Llmctl
from tests.tiny import Recorder, run_tiny, tiny_spec
from tests.workers import end_workers
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

SOUNDS = {"cat": "mew", "dog": "woof", "cow": "moo", "hen": "cluck"}


def conversations(tokenizer: Tokenizer) -> list[int]:
    """Ids of talks about what animals say; whoever is told to shout, shouts."""
    special = tokenizer.special

    def said(who: str, text: str) -> list[int]:
        return [special[f"<|{who}_start|>"], *tokenizer.encode(text), special[f"<|{who}_end|>"]]

    ids: list[int] = []
    animals = [(a, b) for a in SOUNDS for b in SOUNDS]
    for first, second in animals:
        for order, style in (("", str.lower), ("Shout.\n\n", str.upper)):
            ids += [tokenizer.bos_id, *said("user", order + first), *said("assistant", style(SOUNDS[first]))]
            ids += [*said("user", second), *said("assistant", style(SOUNDS[second]))]
    return ids


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("talks")
    special = {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}
    tokenizer = Tokenizer([bytes([b]) for b in range(256)], special, SPLIT_PATTERN)
    tokenizer.save(home / "letters.json")
    ids = conversations(tokenizer)
    np.array(list(islice(cycle(ids), 40 * len(ids))), np.uint16).tofile(home / "talks.bin")
    spec = tiny_spec(
        f"data.source={home}/talks.bin",
        "data.separator=before",
        "data.conversations=true",
        f"tokenizer.name={home}/letters.json",
        "model.sequence_len=64",
        "train.num_iterations=250",
        "train.micro_batch_size=16",
        "train.global_batch_tokens=1024",
        "eval.tokens=1024",
        "eval.every=off",
        "sample.every=off",
        "checkpoint.every=off",
    )
    _, job = run_tiny(spec, home, Recorder())
    return home / f"checkpoints/step-{job.progress.step:08d}"


@pytest.mark.slow
def test_a_chat_model_is_asked_in_its_template_and_does_as_it_is_told_beforehand(
    checkpoint: Path, program: Llmctl, home: Path, tmp_path: Path
) -> None:
    try:
        typed = "cat\n/system Shout.\n/reset\ndog\n/system\n/reset\nhen\ncow\n"
        said = program("chat", str(checkpoint), "--temperature", "0", text=typed, timeout=200)
        assert said.code == 0
        assert said.out.splitlines() == ["mew", "WOOF", "cluck", "moo"]
        assert "it was trained on conversations" in said.err

        served = subprocess.Popen(
            [PROGRAM, "serve", str(checkpoint), "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert served.stdout is not None
            url = served.stdout.readline().strip()
            with openai.OpenAI(base_url=url, api_key=kept_token(), timeout=200) as client:
                model = client.models.list().data[0].id
                answer = client.chat.completions.create(
                    model=model,
                    temperature=0,
                    messages=[{"role": "system", "content": "Shout."}, {"role": "user", "content": "cow"}],
                )
                assert answer.choices[0].message.content == "MOO"
                assert answer.choices[0].finish_reason == "stop"
                streamed = client.chat.completions.create(
                    model=model, temperature=0, stream=True, messages=[{"role": "user", "content": "dog"}]
                )
                assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "woof"
                with pytest.raises(openai.BadRequestError, match=r"the conversation has \d+ tokens"):
                    client.chat.completions.create(
                        model=model, messages=[{"role": "user", "content": "cow " * 30}]
                    )
        finally:
            served.send_signal(signal.SIGINT)
            served.communicate(timeout=60)
    finally:
        end_workers(home)


def test_who_claims_conversations_must_have_them(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=re.escape("the held-out text has no <|user_start|>")):
        run_tiny(tiny_spec("data.conversations=true"), tmp_path, Recorder())
