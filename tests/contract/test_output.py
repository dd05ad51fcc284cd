import subprocess
import sys
from pathlib import Path

import pytest

from trainer_daemon.contract import output
from trainer_daemon.contract.output import OLDER_FILES, cut_outgrown, turn_over

PRINTER = """
import sys; from pathlib import Path
from trainer_daemon.contract import output
output.LOG_BYTES = 1000
own = output.OwnOutput(Path(sys.argv[1]))
for line in range(300):
    print(f"line {line:04d}", flush=True)
    own.turn_over_if_large()
print("to stderr", file=sys.stderr)
"""


def sizes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in folder.iterdir()}


def test_a_process_that_turns_its_own_output_over_loses_no_line(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "rank-0.log"
    subprocess.run([sys.executable, "-c", PRINTER, str(log)], check=True)
    parts = [log.with_name(f"rank-0.log.{n}") for n in (3, 2, 1)] + [log]
    lines = "".join(p.read_text() for p in parts).splitlines()
    assert lines == [f"line {i:04d}" for i in range(300)] + ["to stderr"]
    assert all(p.stat().st_size <= 1010 for p in parts)


def test_the_oldest_go_and_all_together_stay_within_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LOG_BYTES", 100)
    log = tmp_path / "rank-0.log"
    for size in (100, 100, 100, 100, 100, 100):
        log.write_bytes(b"x" * size)
        turn_over(log)
    assert sizes(tmp_path) == {f"rank-0.log.{n}": 100 for n in range(1, OLDER_FILES + 1)}
    log.write_bytes(b"x" * 350)  # a flood between two steps
    turn_over(log)
    assert sizes(tmp_path) == {"rank-0.log.1": 350}


def test_a_file_that_nobody_turns_over_is_emptied_under_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "CUT_BYTES", 1000)
    log = tmp_path / "agent.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 999)
        assert cut_outgrown(tmp_path) == []
        writer.write(b"x" * 99)
        assert cut_outgrown(tmp_path) == ["agent.log"]
        writer.write(b"and on")
    assert log.read_bytes() == b"and on", "no hole where the old text was"
    assert cut_outgrown(tmp_path / "nowhere") == []
