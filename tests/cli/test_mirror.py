"""A run as TensorBoard sees it. The files are read by the definition of their format, not by what wrote them."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.mirror import CURSORS_FILE
from tests.cli.conftest import Llmctl, completed_run, make_run, train_step, write
from trainer_daemon.contract import events
from trainer_daemon.contract.rundir import RunDir, delete_run

pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")


def seen(folder: Path) -> Iterator[Any]:
    """What TensorBoard reads: all files by name, in each the length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.name.rsplit(".", 1)[1]):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """A curve as TensorBoard draws it: a session that starts at a step purges what came from there on."""
    points: list[tuple[int, float]] = []
    for event in seen(folder):
        if event.session_log.status == 1:
            points = [point for point in points if point[0] < event.step]
        points += [(event.step, v.simple_value) for v in event.summary.value if v.tag == tag]
    return points


def texts(folder: Path) -> dict[str, list[tuple[int, str]]]:
    said: dict[str, list[tuple[int, str]]] = {}
    for event in seen(folder):
        for value in event.summary.value:
            if value.tensor.string_val:
                said.setdefault(value.tag, []).append((event.step, value.tensor.string_val[0].decode()))
    return said


def test_a_run_s_numbers_samples_and_alerts_are_there_under_their_steps(
    llmctl: Llmctl, home: Path, tmp_path: Path
) -> None:
    run = completed_run()
    write(run, "train", events.Sampled(3, "The fox", " ran\n# on", 4, "length", 0.0, None, 1, 0.1, None))
    write(run, "train", events.Sampled(3, "asked", "for", 1, "length", 0.0, None, 1, 0.1, "a-person"))
    write(run, "train", events.Alert("gradient_spike", 3, "norm 7", "an odd batch", "nothing yet"))
    write(run, "train", events.CoreTaskScored(3, "arc_easy", 0.5, 0.25, 100, 1.0))

    mirrored = llmctl("mirror", "done", str(tmp_path / "tb"))

    assert mirrored.code == 0
    assert "done is completed" in mirrored.err
    folder = tmp_path / "tb" / "done"
    assert scalars(folder, "train_step/loss_nats") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert scalars(folder, "train_step/learning_rates/matrix")[0] == pytest.approx((1, 0.02))
    assert scalars(folder, "evaluated/val_bpb") == [(3, 1.25)]
    assert scalars(folder, "core_task/arc_easy") == [(3, 0.25)]
    assert scalars(folder, "train_step/mfu") == [], "what is not known is not there"
    said = texts(folder)
    assert [tag.split("/")[0] for tag in said] == ["sample", "alert"]
    assert said["sample/The_fox/text_summary"] == [(3, "    The fox ran\n    # on\n")]
    assert "an odd batch" in said["alert/gradient_spike/text_summary"][0][1]


def test_called_again_it_goes_on_where_it_was(llmctl: Llmctl, home: Path, tmp_path: Path) -> None:
    run = make_run("goes-on", events.StateChanged("stopped", "on request", 4711, 1))
    for more in ([], [train_step(4), train_step(5)], []):
        write(run, "train", *more)
        assert llmctl("mirror", "goes-on", str(tmp_path)).code == 0
    steps = [step for step, _ in scalars(tmp_path / "goes-on", "train_step/loss_nats")]
    assert steps == [1, 2, 3, 4, 5]


def test_a_branch_that_a_resume_cut_off_is_purged(llmctl: Llmctl, home: Path, tmp_path: Path) -> None:
    run = make_run("resumed", events.StateChanged("stopped", "on request", 4711, 1))
    write(run, "train", events.Resumed(1, "step-00000001", None), train_step(2), attempt=2)
    assert llmctl("mirror", "resumed", str(tmp_path)).code == 0
    assert scalars(tmp_path / "resumed", "train_step/loss_nats") == [(1, 3.0), (2, 2.0)]


def test_a_later_run_of_the_same_name_does_not_mix_with_it(
    llmctl: Llmctl, home: Path, tmp_path: Path
) -> None:
    first: RunDir = completed_run()
    assert llmctl("mirror", "done", str(tmp_path)).code == 0
    delete_run(first)
    second = completed_run()
    os.utime(second.spec_file, ns=(1, 1))
    refused = llmctl("mirror", "done", str(tmp_path))
    assert (refused.code, "another run of that name" in refused.err) == (6, True)
    assert (tmp_path / "done" / CURSORS_FILE).is_file()
