"""`llmctl serve` as a program, with a real model behind it."""

import re
import signal
import socket
import subprocess
from pathlib import Path

import openai
import pytest

from cli.serve import kept_token, named_model, token_file
from tests.cli.conftest import PROGRAM, Llmctl, add_checkpoint, completed_run
from tests.tiny import Recorder, run_tiny
from tests.tiny_moe import tiny_moe_spec
from tests.workers import end_workers
from trainer_daemon.gateway.app import ServedModel


def test_the_token_stays_the_same_and_is_its_owners_alone(home: Path) -> None:
    assert len(kept_token()) > 30
    assert kept_token() == kept_token()
    assert token_file().stat().st_mode & 0o077 == 0


def test_what_cannot_be_served_is_said_before_anything_listens(llmctl: Llmctl, home: Path) -> None:
    add_checkpoint(completed_run(), 10)
    assert llmctl("serve", "nobody").code == 3
    assert "the nearest is done@10" in llmctl("serve", "done@11").err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = llmctl("serve", "done", "--port", str(taken.getsockname()[1]))
    assert (refused.code, "choose another" in refused.err) == (6, True)


def test_a_checkpoint_is_served_under_the_name_that_it_was_asked_for_with(home: Path) -> None:
    run = completed_run()
    best = add_checkpoint(run, 10, 0.5)
    last = add_checkpoint(run, 20, 0.7)
    (last / "spec.json").write_text('{"data": {"conversations": true}}')
    expected = {
        "done@best": ("done@best", best, False),
        "@last@best": ("done@best", best, False),
        "don@last": ("done@last", last, True),
        "done@10": ("done@10", best, False),
        "done": ("done@20", last, True),
        str(best): ("done@10", best, False),
    }
    for reference, (name, path, is_chat) in expected.items():
        assert named_model(reference) == (name, ServedModel(path, is_chat=is_chat)), reference


@pytest.mark.slow
def test_a_real_model_completes_streams_and_refuses_what_does_not_fit(home: Path, tmp_path: Path) -> None:
    run_tiny(tiny_moe_spec(), tmp_path / "trained", Recorder())
    checkpoint = tmp_path / "trained/checkpoints/step-00000012"
    program = subprocess.Popen(
        [PROGRAM, "serve", str(checkpoint), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        url = program.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url)
        with openai.OpenAI(base_url=url, api_key=kept_token(), timeout=100) as client:
            model = client.models.list().data[0].id
            assert model == "trained@12"
            settings = {"model": model, "prompt": "One day", "max_tokens": 12, "seed": 3}
            whole = client.completions.create(**settings)  # type: ignore[call-overload]  # a dict of settings
            streamed = client.completions.create(**settings, stream=True)  # type: ignore[call-overload]
            assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text
            assert 0 < whole.usage.completion_tokens <= 12
            with pytest.raises(openai.BadRequestError, match="tokens and the context 32") as refused:
                client.completions.create(model=model, prompt="One day " * 50, max_tokens=1)
            assert refused.value.code == "context_length_exceeded"
    finally:
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=60)
        end_workers(home)
