import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer_daemon.contract.errors import NotFoundError, RefusedError, SpecError
from trainer_daemon.contract.rundir import (
    RunDir,
    all_runs,
    check_name,
    create_run,
    find_run,
    hold_lock,
    record_sockets,
    recorded_sockets,
    runs_folder,
    socket_folder,
    write_durably,
)
from trainer_daemon.contract.spec import RunSpec

HOSTILE_NAMES = [
    "", ".", "..", "../x", "../../etc", "a/b", "/etc/passwd", "a\\b", "-rf", "--help", ".hidden", "_x", "a..b",
    "a b", " a", "a ", "a\n", "\na", "a\x00", "a\x1b[2J", "$(id)", "`id`", "a;b", "a|b", "a&b", "a*", "a?", "~",
    "~root", "A", "é", "ａ", "\u202eabc", "a\u200b", "a" * 64, "@last", "a%2fb", "a:b", "con\r",
]  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "home"


@pytest.fixture
def locks() -> Iterator[list[int]]:
    held: list[int] = []
    yield held
    for fd in held:
        os.close(fd)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_refused_before_anything_is_made(name: str, home: Path) -> None:
    with pytest.raises(SpecError, match="not allowed"):
        create_run(name, RunSpec())
    assert not home.exists()


@pytest.mark.parametrize("name", ["a", "0", "d26", "my-run_2.1", "a" * 63])
def test_a_plain_name_is_allowed(name: str) -> None:
    assert check_name(name) == name


def test_a_new_run_is_whole_and_alive(locks: list[int]) -> None:
    run, lock = create_run("a", RunSpec(seed=7))
    locks.append(lock)
    assert run.read_spec() == RunSpec(seed=7)
    assert run.supervisor_is_alive()
    assert not run.ranks_are_alive()
    assert run.path.stat().st_mode & 0o077 == 0


def test_a_taken_name_is_refused_and_the_first_run_stays_as_it_is(locks: list[int]) -> None:
    run, lock = create_run("a", RunSpec(seed=1))
    locks.append(lock)
    with pytest.raises(RefusedError, match='"a" exists'):
        create_run("a", RunSpec(seed=2))
    assert run.read_spec().seed == 1
    assert run.supervisor_is_alive()
    assert [p.name for p in runs_folder().iterdir()] == ["a"]


def test_of_many_who_create_the_same_run_at_once_one_succeeds(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from trainer_daemon.contract.rundir import create_run\n"
        "from trainer_daemon.contract.spec import RunSpec\n"
        "from trainer_daemon.contract.errors import RefusedError\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    create_run('a', RunSpec()); print('made')\n"
        "except RefusedError:\n"
        "    print('refused')\n"
        "sys.stdin.readline()\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    assert sorted(answers) == ["made"] + ["refused"] * 7
    assert find_run("a").supervisor_is_alive()
    for racer in racers:
        racer.communicate("end\n", timeout=20)
    assert not find_run("a").supervisor_is_alive()


def test_the_draft_of_a_run_is_not_a_run(locks: list[int]) -> None:
    """A reader once listed `.new-…`, a folder that is being filled or that a killed starter left."""
    run, lock = create_run("a", RunSpec())
    locks.append(lock)
    (runs_folder() / ".new-1234").mkdir()
    write_durably(runs_folder() / ".new-1234" / "spec.json", b"{}")
    assert all_runs() == [run]


def test_a_run_is_found_by_its_name_a_unique_beginning_or_as_the_last(locks: list[int]) -> None:
    locks.extend(create_run(name, RunSpec())[1] for name in ("alpha", "alpine", "beta"))
    assert find_run("alpha").name == "alpha"
    assert find_run("b").name == "beta"
    assert find_run("@last").name == "beta"
    with pytest.raises(NotFoundError, match="several runs; there are: alpha, alpine"):
        find_run("alp")
    with pytest.raises(NotFoundError, match="names no run"):
        find_run("gamma")


def test_a_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    program = (
        "import sys; from pathlib import Path; from trainer_daemon.contract.rundir import hold_lock\n"
        "hold_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.run_lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert run.supervisor_is_alive()
        with pytest.raises(RefusedError, match="already going"):
            hold_lock(run.run_lock)
        holder.kill()
    assert not run.supervisor_is_alive()


def test_probes_by_many_readers_refuse_no_rank_and_mislead_no_other_probe(tmp_path: Path) -> None:
    """Asking whether ranks live takes their lock for some microseconds; a rank that started then was refused."""
    run = RunDir(tmp_path)
    os.close(hold_lock(run.ranks_lock, shared=True))
    program = (
        "import sys; from pathlib import Path; from trainer_daemon.contract.rundir import RunDir\n"
        "run = RunDir(Path(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "print(any(run.ranks_are_alive() for _ in range(10000)), flush=True)\n"
    )
    probers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(4)
    ]
    for prober in probers:
        assert prober.stdout is not None
        assert prober.stdout.readline() == "ready\n"
    # nobody but the probers is there: not one of them may say that ranks live
    # not communicate(): with a timeout it passes over what readline() had buffered already
    assert [prober.stdout.read() for prober in probers if prober.stdout] == ["False\n"] * 4
    assert [prober.wait(120) for prober in probers] == [0] * 4
    for _ in range(2):
        prober = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert prober.stdout is not None
        prober.stdout.readline()
        for _ in range(5000):
            os.close(hold_lock(run.ranks_lock, shared=True))
        prober.communicate(timeout=120)


def test_a_log_is_read_in_parts_that_join_without_cutting_a_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    assert run.read_log("rank-0", 0) == ("", 0, 0)
    run.logs.mkdir()
    text = "héllo wörld 🎈\n" * 20
    run.rank_log(0).write_text(text)
    monkeypatch.setattr("trainer_daemon.contract.rundir.LOG_PART_BYTES", 7)
    got, offset = "", 0
    while offset < run.rank_log(0).stat().st_size:
        part, offset, size = run.read_log("rank-0", offset)
        got += part
    assert got == text
    assert run.read_log("rank-0", -5)[1] == size
    monkeypatch.undo()
    assert run.read_log("rank-0", 10**9) == (text, size, size), "it was turned over: begin anew"


@pytest.mark.parametrize("source", ["../spec.json", "rank-0/../../x", "", "rank-", "spec", "rank-0\n"])
def test_only_logs_can_be_read_as_logs(tmp_path: Path, source: str) -> None:
    with pytest.raises(NotFoundError):
        RunDir(tmp_path).read_log(source, 0)


def test_a_damaged_spec_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"model": {"depth": "many"}}')
    with pytest.raises(SpecError, match=r"spec\.json"):
        RunDir(tmp_path).read_spec()
    with pytest.raises(NotFoundError, match="not a run"):
        RunDir(tmp_path / "nowhere").read_spec()


def test_the_socket_folder_must_be_enterable_by_the_owner_alone(tmp_path: Path) -> None:
    folder = socket_folder(tmp_path / "a")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(str(folder / "ctl")) - len(str(tmp_path)) < 40
    folder.parent.chmod(0o755)
    with pytest.raises(RefusedError, match="only you can enter"):
        socket_folder(tmp_path / "a")


def test_recorded_sockets_must_be_enterable_by_the_owner_alone_while_they_are_there(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a")
    run.path.mkdir()
    folder = tmp_path / "é\udcff" / "sockets"
    record_sockets(run, folder)
    assert recorded_sockets(run) == folder  # a logout removed it, or its machine is another
    folder.mkdir(mode=0o700, parents=True)
    folder.parent.chmod(0o700)
    assert recorded_sockets(run) == folder
    folder.chmod(0o750)
    with pytest.raises(RefusedError, match="only you can enter"):
        recorded_sockets(run)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="only you can enter"):
        recorded_sockets(run)


def test_a_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "llmctl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError):
        socket_folder(tmp_path / "a")
