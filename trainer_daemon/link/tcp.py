"""A run of another machine over TCP with CURVE keys, for networks where ssh does not reach.

Its supervisor was started with `--listen`. All that is known of the run comes through its sockets, so unlike over ssh
there is nothing to read once the supervisor is gone.
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import RefusedError, WaitTimeoutError
from trainer_daemon.contract.events import FINAL_STATES, StateChanged
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import NAME_PATTERN, write_json
from trainer_daemon.link.far import FarRun
from trainer_daemon.link.ways import CurveWay

if TYPE_CHECKING:
    from trainer_daemon.link.client import LinkState


class Visit(Closing):
    """From `open` to `close` there is a folder here for what is known of the run."""

    def __init__(self, way: CurveWay) -> None:
        self.way = way
        self.has_ended = False
        self._scratch = Path(tempfile.mkdtemp(prefix="llmctl-far-"))
        self._is_heard = True
        self._said_it_ended = False

    @property
    def has_supervisor(self) -> bool:
        """Until it has said that the run is over: what is not heard is not taken for dead."""
        return not self.has_ended

    @property
    def words(self) -> str:
        host = self.way.place.host
        return host if self._is_heard or self.has_ended else f"{host}: not heard"

    def open(self) -> FarRun:
        """Ask what is there. Raises RefusedError when nobody answers, or when we are not let in."""
        from trainer_daemon.link.client import Link

        place = f"{self.way.place.host}:{self.way.place.port}"
        if not self.way.answers_calls():
            raise RefusedError(f"nobody listens at {place}; is the run over, or a firewall in between?")
        try:
            with Link(self.way, place) as link:
                told = link.request("hello")
        except WaitTimeoutError as e:
            raise RefusedError(
                f"{place} listens but does not answer: its key is another one, or ours is not let in; on that machine: "
                f"llmctl keys allow NAME {self.way.keys.public.hex()}"
            ) from e
        name = told.get("name")
        if not (isinstance(name, str) and NAME_PATTERN.fullmatch(name)):
            raise RefusedError(f"{place} gave its run no name that can be one")
        run = FarRun(self._scratch / name, self)
        run.journal.mkdir(parents=True)
        write_json(run.spec_file, told.get("spec"))
        return run

    def ask_command(self, *words: str) -> list[str]:
        """Raises RefusedError: run here, the command would mean a run of this machine."""
        raise RefusedError(
            f"{words[0]} does not go over TCP, only what steers the run; do it on its own machine, or by ssh"
        )

    def hear(self, state: "LinkState | None", records: list[Record]) -> None:
        """Learn from what the feed got whether the run is over."""
        self._is_heard = state != "lost"
        for record in records:
            if isinstance(record.event, StateChanged):
                self._said_it_ended = record.event.state in FINAL_STATES
        # not before it is silent: other streams' last words may still be on their way
        self.has_ended = self._said_it_ended and (self.has_ended or state == "lost")

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
