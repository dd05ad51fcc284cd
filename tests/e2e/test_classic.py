"""A whole run of the classic family: two ranks, one of them killed, and all that one asks of a run."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Runs
from tests.e2e.test_whole_run import final_hashes, ranks_of, step_reached
from tests.supervisor.conftest import follow, state_is, wait_until_over, watch
from tests.tiny_pile import tiny_pile_spec, write_tiny_pile
from trainer_daemon.contract.events import RankExited, Sampled
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import Feed, send_command

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(300)]


def test_a_killed_rank_changes_nothing_and_the_run_is_sampled_measured_forked_and_exported(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.main import main

    home = tmp_path / "home"
    write_tiny_pile(home)
    spec = tiny_pile_spec(
        f"tokenizer.name={home / 'tokenizers' / 'letters.json'}",  # absolute, as the command line hands it on
        *("runtime.restart_delay_seconds=0", "runtime.nproc=2", "train.micro_batch_size=2"),
        *("train.num_iterations=300", "checkpoint.every=20", "eval.every=100", "sample.every=100"),
    ).model_dump(mode="json")

    def train(name: str) -> RunDir:
        return RunDir(Path(runs.ask({"name": name, "spec": spec}).path))

    def told(*words: str) -> Any:
        capsys.readouterr()
        assert main([*words, "--json"]) == 0, words
        return json.loads(capsys.readouterr().out)

    undisturbed = train("undisturbed")
    watch(undisturbed, state_is("completed"), 120)
    disturbed = train("disturbed")
    with Feed(disturbed) as feed:
        follow(feed, step_reached(10), 120)
        asked = {"prompt": "Once", "max_tokens": 100, "temperature": 0.0}  # beyond the 64 positions
        request = send_command(disturbed, "sample", asked)
        follow(feed, lambda r: isinstance(r.event, Sampled) and r.event.request_id == request, 120)
        follow(feed, step_reached(50), 120)
        os.kill(ranks_of(disturbed)[1].pid, signal.SIGKILL)
        records = follow(feed, state_is("completed", "failed"), 120)
    assert [r.event.rank for r in records if isinstance(r.event, RankExited) and r.event.is_root_cause] == [1]
    assert final_hashes(disturbed) == final_hashes(undisturbed)
    wait_until_over(disturbed, runs.pid)

    sampled = told("sample", "disturbed", "Once upon", "--max-tokens", "5", "--temperature", "0")
    assert sampled["completions"][0]["tokens"] <= 5
    measured = told("eval", "disturbed@last")
    assert measured["val_bpb"] == pytest.approx(observe(disturbed).val_bpb, rel=1e-6)
    exported = told("export", "disturbed@last", str(tmp_path / "out"))
    assert "modeling_llmctl_classic.py" in str(exported)
    assert main(["fork", "disturbed@280", "--set", "model.sequence_len=32", "--detach"]) == 2
    assert "64 positions" in capsys.readouterr().err
    assert main(["fork", "disturbed@280", "--set", "adamw.learning_rate=1e-4", "--detach"]) == 0
    fork = RunDir(disturbed.path.with_name("disturbed-2"))
    watch(fork, state_is("completed"), 120)
    assert observe(fork).forked_from == "disturbed@280"
    assert final_hashes(fork) != final_hashes(disturbed)
