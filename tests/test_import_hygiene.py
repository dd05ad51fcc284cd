"""What starts fast stays fast: torch costs 1.4 s and 200 MB, and only the engine pays for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = "import sys, json; print('\\nMODULES', json.dumps(sorted(sys.modules)))"
RUN_MAIN = "from cli.main import main; code = main({}); assert code == {}, code; "


def modules_after(code: str, home: Path, path: str = "") -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT],
        capture_output=True,
        text=True,
        check=False,
        env={"LLMCTL_HOME": str(home), "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("MODULES ")[2]))


@pytest.mark.parametrize(
    ("arguments", "code", "absent"),
    [
        (["--help"], 0, {"torch", "numpy", "pydantic", "zmq", "rich", "textual", "msgspec", "asyncio"}),
        (["run", "--help"], 0, {"torch", "numpy", "zmq", "rich", "textual"}),
        (["presets", "d12"], 0, {"torch", "numpy", "zmq", "rich", "textual"}),
        (["plan", "--preset", "d26", "--on", "8xH100"], 0, {"torch", "numpy", "zmq", "rich", "textual"}),
        (["ls"], 0, {"torch", "numpy", "zmq", "rich", "textual"}),
        (["status", "nobody"], 3, {"torch", "numpy", "zmq", "rich", "textual"}),
        (["checkpoints", "nobody"], 3, {"torch", "numpy", "zmq", "rich", "textual"}),
        (["run", "--dry-run"], 0, {"torch", "zmq", "rich", "textual"}),
    ],
)
def test_a_command_imports_only_what_it_needs(
    arguments: list[str], code: int, absent: set[str], tmp_path: Path
) -> None:
    loaded = modules_after(RUN_MAIN.format(arguments, code), tmp_path)
    assert not loaded & absent


@pytest.mark.parametrize(
    "module",
    [
        "trainer_daemon.contract.estimate",
        "trainer_daemon.contract.status",
        "trainer_daemon.contract.wire",
        "trainer_daemon.engine.checkpoint.store",
        "trainer_daemon.engine.data.sources",
        "trainer_daemon.gateway.app",
        "trainer_daemon.link.client",
        "trainer_daemon.link.inference",
        "trainer_daemon.link.server",
        "trainer_daemon.processes.supervise",
        "tui.app",
        "tui.screens.cockpit",
    ],
)
def test_everything_but_the_engine_does_without_torch(module: str, tmp_path: Path) -> None:
    assert "torch" not in modules_after(f"import {module}; ", tmp_path)


def test_a_rank_needs_nothing_that_a_bare_gpu_image_lacks(tmp_path: Path) -> None:
    loaded = modules_after("import trainer_daemon.processes.rank, trainer_daemon.engine.loop; ", tmp_path)
    assert not loaded & {"msgspec", "psutil", "zmq", "typer", "rich", "textual"}


TRAIN = """
from pathlib import Path
from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.engine.ranks import join_ranks
spec = tiny_spec("train.num_iterations=2", "eval.every=1", "sample.every=1", "checkpoint.every=1")
run_tiny(spec, Path({home!r}), Recorder(), None, join_ranks(spec.runtime))
"""


@pytest.mark.slow
def test_a_rank_that_compiles_nothing_loads_no_compiler(tmp_path: Path) -> None:
    """A second of each start, of torch's two and a half: it came with the question whether a run is deterministic, and with
    an operator whose only use is to be passed by when one compiles."""
    loaded = modules_after(TRAIN.format(home=str(tmp_path)), tmp_path, os.environ["PATH"])
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "torch._inductor", "sympy"}


def test_the_first_frame_of_the_cockpit_waits_for_textual_alone(tmp_path: Path) -> None:
    code = "import trainer_daemon.contract.rundir, tui.app; tui.app.load_settings(); "
    assert not modules_after(code, tmp_path) & {"torch", "numpy", "pydantic", "zmq", "msgspec"}


def test_curves_are_drawn_without_what_only_a_spec_or_a_socket_needs(tmp_path: Path) -> None:
    loaded = modules_after("import tui.screens.cockpit; ", tmp_path)
    assert "tui.store" in loaded
    assert not loaded & {"pydantic", "trainer_daemon.contract.spec", "zmq"}
    hidden = {
        f"tui.panes.{name}" for name in ("samples", "checkpoints", "log", "runs", "system", "spec", "alerts")
    }
    assert not loaded & {*hidden, "tui.screens.talk", "tui.screens.new_run"}
