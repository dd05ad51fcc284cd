"""`plot`, `compare` and `metrics` on runs as their journals left them."""

import csv
import io
import json
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Llmctl, completed_run, write
from trainer_daemon.contract import events
from trainer_daemon.contract.rundir import RunDir, create_run, find_run
from trainer_daemon.contract.settings import change_settings
from trainer_daemon.contract.spec import RunSpec, build_spec


def planned(flops_per_token: int) -> events.RunPlanned:
    return events.RunPlanned(
        total_steps=100,
        total_tokens=6400,
        global_batch_tokens=64,
        grad_accum_steps=1,
        vocab_size=300,
        parameters=1000,
        scaling_parameters=800,
        flops_per_token=flops_per_token,
        peak_flops=None,
        peak_flops_source="unknown",
        train_rows=10,
        held_out_rows=2,
        bits_per_byte_floor=None,
    )


def step(number: int, loss: float) -> events.TrainStep:
    return events.TrainStep(
        step=number,
        loss_nats=loss,
        grad_norm=None,
        learning_rate_scale=1.0,
        step_seconds=0.5,
        tokens=64 * number,
        tokens_per_second=128.0,
        mfu=None,
        epoch=0.1,
    )


def finished_run(name: str, *, matrix_lr: float, bpb_at: dict[int, float], flops_per_token: int) -> RunDir:
    run, lock = create_run(name, build_spec({"optim": {"matrix_lr": matrix_lr}}))
    write(run, "daemon", events.StateChanged("starting", "", 1, 1))
    write(run, "train", planned(flops_per_token))
    for number, bpb in bpb_at.items():
        write(run, "train", step(number, bpb * 2), events.Evaluated(number, bpb, bpb * 2, 10, 0.1))
    write(run, "daemon", events.StateChanged("completed", "all done", 1, 1))
    os.close(lock)
    return run


@pytest.fixture
def pair(home: Path) -> None:
    finished_run("plain", matrix_lr=0.02, bpb_at={10: 2.0, 20: 1.5, 40: 1.0}, flops_per_token=1_000_000)
    finished_run("quick", matrix_lr=0.03, bpb_at={10: 1.5, 20: 1.0, 40: 0.8}, flops_per_token=1_000_000)


def test_a_run_that_gets_there_in_half_the_tokens_has_a_compute_multiplier_of_two(
    llmctl: Llmctl, pair: None
) -> None:
    told = llmctl("compare", "plain", "quick", "--json").json()
    assert [run["compute_multiplier"] for run in told["runs"]] == [1.0, 2.0]
    assert [run["flops"] for run in told["runs"]] == [40 * 64 * 1e6] * 2
    assert told["spec_differences"] == {"optim.matrix_lr": [0.02, 0.03]}


def test_runs_are_compared_by_what_they_train_with_now(llmctl: Llmctl, pair: None) -> None:
    """What `llmctl set` had changed was compared as the spec had it at first."""
    change_settings(find_run("quick"), {"eval.every": 7})
    before = RunSpec().eval.every
    assert llmctl("compare", "plain", "quick", "--json").json()["spec_differences"] == {
        "optim.matrix_lr": [0.02, 0.03],
        "eval.every": [before, 7],
    }


def test_a_model_of_twice_the_cost_needs_twice_the_compute_for_the_same_steps(
    llmctl: Llmctl, pair: None
) -> None:
    finished_run("heavy", matrix_lr=0.03, bpb_at={10: 1.5, 20: 1.0, 40: 0.8}, flops_per_token=2_000_000)
    told = llmctl("compare", "plain", "heavy", "--json").json()
    assert told["runs"][1]["compute_multiplier"] == 1.0


def test_a_comparison_reads_as_two_tables(llmctl: Llmctl, pair: None) -> None:
    told = llmctl("compare", "plain", "quick")
    assert told.code == 0
    rows = [line.split() for line in told.out.splitlines()]
    assert rows[2][:2] == ["quick", "completed"]
    assert rows[2][-1] == "2.00"
    assert ["optim.matrix_lr", "0.02", "0.03"] in rows


def test_runs_are_compared_by_the_query_of_ls_too(llmctl: Llmctl, pair: None) -> None:
    picked = llmctl("compare", "quick", "--where", "state:completed matrix_lr<0.025", "--json").json()
    assert [run["name"] for run in picked["runs"]] == ["quick", "plain"]
    assert picked["spec_differences"] == {"optim.matrix_lr": [0.03, 0.02]}
    assert llmctl("compare").code == llmctl("compare", "--where", "owl").code == 2


def test_a_run_that_was_never_evaluated_is_compared_without_a_multiplier(llmctl: Llmctl, pair: None) -> None:
    finished_run("blind", matrix_lr=0.02, bpb_at={}, flops_per_token=1_000_000)
    assert llmctl("compare", "plain", "blind", "--json").json()["runs"][1]["compute_multiplier"] is None


def test_metrics_are_one_row_a_step_and_leave_out_the_branch_that_was_cut(llmctl: Llmctl, home: Path) -> None:
    run, lock = create_run("cut", build_spec({}))
    write(run, "train", planned(10), step(1, 4.0), events.Evaluated(1, 2.0, 4.0, 10, 0.1), step(2, 99.0))
    write(run, "train", events.Resumed(1, "step-00000001", 2.0), step(2, 3.5), step(3, 3.25))
    os.close(lock)
    rows = list(csv.DictReader(io.StringIO(llmctl("metrics", "cut").out)))
    assert [(r["step"], r["tokens"], r["loss_nats"], r["val_bpb"]) for r in rows] == [
        ("1", "64", "4", "2"),
        ("2", "128", "3.5", ""),
        ("3", "192", "3.25", ""),
    ]


def test_the_three_formats_say_the_same(llmctl: Llmctl, pair: None, tmp_path: Path) -> None:
    chosen = ("metrics", "quick", "-m", "loss_nats", "-m", "val_bpb")
    as_csv = [
        {name: float(value) for name, value in row.items()}
        for row in csv.DictReader(io.StringIO(llmctl(*chosen).out))
    ]
    as_lines = [json.loads(line) for line in llmctl(*chosen, "--format", "jsonl").out.splitlines()]
    file = tmp_path / "quick.parquet"
    assert llmctl(*chosen, "--format", "parquet", "-o", str(file)).code == 0
    assert as_csv == as_lines == pq.read_table(file).to_pylist()
    assert [row["loss_nats"] for row in as_csv] == [3.0, 2.0, 1.6]


def test_an_unknown_metric_is_refused_with_the_nearest(llmctl: Llmctl, pair: None) -> None:
    told = llmctl("plot", "quick", "-m", "val_bpc", "--once")
    assert told.code == 2
    assert "val_bpb" in told.err


def test_a_plot_in_a_pipe_is_plain_text_with_every_run_in_the_legend(llmctl: Llmctl, pair: None) -> None:
    told = llmctl(
        "plot", "plain", "quick", "-m", "val_bpb", "-x", "flops", "--width", "60", "--symbols", "ascii"
    )
    assert told.code == 0
    assert "\x1b" not in told.out
    title, *rows = told.out.splitlines()
    assert title.startswith("val bpb -plain 1 -quick 0.8")
    assert len(rows) == 15
    assert all(len(row) == 60 for row in rows)


def test_a_vector_picture_has_a_line_for_each_run_and_escapes_names(
    llmctl: Llmctl, pair: None, tmp_path: Path
) -> None:
    file = tmp_path / "curve.svg"
    assert llmctl("plot", "plain", "quick", "-m", "val_bpb", "--svg", str(file)).code == 0
    picture = ET.parse(file)
    svg = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f".//{svg}polyline")) == 2
    texts = [text.text for text in picture.findall(f".//{svg}text")]
    assert {"val bpb", "plain", "quick", "step"} <= set(texts)


def test_a_plot_is_written_as_pixels_and_as_numbers(llmctl: Llmctl, pair: None, tmp_path: Path) -> None:
    table, picture = tmp_path / "curve.csv", tmp_path / "curve.png"
    assert llmctl("plot", "plain", "quick", "-m", "val_bpb", "--csv", str(table)).code == 0
    runs = {line.split(",")[0] for line in table.read_text(encoding="utf-8").splitlines()[1:]}
    assert runs == {"plain", "quick"}
    wrong = llmctl("plot", "plain", "-m", "val_bpb", "--png", str(table))
    assert wrong.code == 2
    assert "ends in .png" in wrong.err
    pytest.importorskip("PIL", reason="the extra png is not installed")
    assert llmctl("plot", "plain", "quick", "-m", "val_bpb", "--png", str(picture)).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_vector_picture_holds_one_chart(llmctl: Llmctl, pair: None, tmp_path: Path) -> None:
    told = llmctl("plot", "plain", "--svg", str(tmp_path / "two.svg"))
    assert told.code == 2
    assert "-m loss_nats" in told.err


def test_a_plot_says_what_its_marks_stand_for_unless_they_are_put_away(llmctl: Llmctl, home: Path) -> None:
    run = finished_run("marked", matrix_lr=0.02, bpb_at={10: 2.0, 20: 1.5, 40: 1.0}, flops_per_token=1)
    write(run, "train", events.CheckpointSaved(20, "step-00000020", 1000, 3.0, 0.1))
    words = ["plot", "marked", "-m", "val_bpb", "--width", "60", "--symbols", "ascii"]
    *chart, legend = llmctl(*words).out.splitlines()
    assert len(chart) == 16
    assert legend.strip() == "o checkpoint"
    assert any("o" in row for row in chart[1:])
    bare = llmctl(*words, "--no-marks").out.splitlines()
    assert len(bare) == 16
    assert not any("o" in row for row in bare[1:])
    picture = home / "marked.svg"
    assert llmctl(*words, "--svg", str(picture)).code == 0
    texts = ["".join(text.itertext()) for text in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("◆") == 1
    assert "◆ checkpoint" in texts
    assert llmctl(*words, "--no-marks", "--svg", str(picture)).code == 0
    assert "◆" not in picture.read_text(encoding="utf-8")


def test_a_run_without_a_plan_is_plotted_too(llmctl: Llmctl, home: Path) -> None:
    completed_run("old")
    assert "loss" in llmctl("plot", "old", "--once").out


def test_more_runs_than_there_are_colours_are_refused(llmctl: Llmctl, pair: None) -> None:
    told = llmctl("plot", *["plain"] * 9)
    assert told.code == 2
    assert "at most 8" in told.err
