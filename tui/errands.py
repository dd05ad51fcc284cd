"""What the cockpit has llmctl do: a command of the command line, in a process of its own.

So what verify, fork or export check and say is the same from both faces, torch stays out of this process, and on a run
of another machine the command runs over there, through ssh, or is refused. A daemon thread waits for it, as one waits for text.
"""

import subprocess
import sys
import threading
from collections.abc import Sequence

from trainer_daemon.contract.errors import RefusedError, RunFailedError
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.text import printable
from trainer_daemon.link.far import FarRun
from tui.run_state import Area, RunState

PROGRAM = (sys.executable, "-P", "-c", "from cli.main import app; raise SystemExit(app())")
"""llmctl as this process would start it; -P, or a folder called cli/ in the working directory would be taken for ours."""

UNDER_WAY = {"verify": "verifying", "export": "exporting"}
"""Of a checkpoint, what takes long enough that one would look whether it goes on; and what is then said of it."""


class Errand(threading.Thread):
    """One command, e.g. `pin fox@500`. Started at once; read the attributes once `is_over`."""

    def __init__(self, run: RunDir, words: Sequence[str]) -> None:
        super().__init__(name=f"llmctl {words[0]}", daemon=True)
        self.words = tuple(words)
        self.out = ""
        """What it printed: its data."""
        self.said = ""
        """One paragraph for the reader: why it failed, else what it narrated or printed last."""
        self.exit_code: int | None = None
        """None where it could not be begun."""
        self._run_folder = run
        self.start()

    @property
    def has_failed(self) -> bool:
        return self.exit_code != 0

    @property
    def is_over(self) -> bool:
        return not self.is_alive()

    def run(self) -> None:
        folder, words = self._run_folder, self.words
        try:
            done = subprocess.run(
                folder.guide.ask_command(*words) if isinstance(folder, FarRun) else [*PROGRAM, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                start_new_session=True,  # what was asked for is done, though the terminal be closed
            )
        except (OSError, RefusedError) as e:
            self.said = str(e)
            return
        self.exit_code, self.out = done.returncode, done.stdout
        lines = [*done.stdout.strip().splitlines()[-1:], *done.stderr.strip().splitlines()[-1:]]
        self.said = printable(lines[-1].removeprefix("error: ")) if lines else "done"


def said_of_checkpoint(errand: Errand, state: RunState) -> set[Area]:
    """Have it stand beside the checkpoint what is done with it, or what came of that."""
    command = errand.words[0]
    if command not in UNDER_WAY:
        return set()
    step = int(errand.words[1].rpartition("@")[2])
    if not errand.is_over:
        return state.note_checkpoint(step, command, UNDER_WAY[command])
    verdicts = {0: "whole", RunFailedError.exit_code: "damaged"} if command == "verify" else {}
    code = errand.exit_code
    return state.note_checkpoint(step, command, None if code is None else verdicts.get(code))
