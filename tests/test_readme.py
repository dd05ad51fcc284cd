"""Prose drifts unless a test reads it: what the README names must exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli.plan import planned_vocab_size
from presets.loader import list_presets, preset_tables
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.scaling import training_plan
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.contract.status import RunStatus
from trainer_daemon.supervisor.deliveries import message

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))


def llmctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cli.entry import app; raise SystemExit(app())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_the_table_of_presets_says_what_each_one_comes_to() -> None:
    pattern = r"^\| `([\w.-]+)` \| ([\d.]+) M \| ([\d.]+) ([MG]) \| ([\d.e+]+) \|$"
    table = {name: told for name, *told in re.findall(pattern, README, flags=re.MULTILINE)}
    assert list(table) == [preset.name for preset in list_presets()]
    for name, (millions, tokens, unit, flops) in table.items():
        spec = build_spec(preset_tables(name))
        plan = training_plan(spec, planned_vocab_size(spec), 1)
        told = (
            float(millions) * 1e6,
            float(tokens) * {"M": 1e6, "G": 1e9}[unit],
            float(flops),
        )
        expected = (plan.parameters.total, plan.total_tokens, plan.total_flops)
        assert told == pytest.approx(expected, rel=0.02), name


def test_every_folder_of_the_table_exists_and_every_package_is_in_it() -> None:
    named = set(re.findall(r"^\| `([^`]+)/` \|", README, flags=re.MULTILINE))
    assert [n for n in named if not (ROOT / n).is_dir()] == []
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert {*packages["packages"], "tests"} <= named
    assert {
        f"trainer_daemon/{p.parent.name}" for p in (ROOT / "trainer_daemon").glob("*/__init__.py")
    } <= named


def test_every_command_and_option_of_the_readme_is_in_the_help() -> None:
    used = re.findall(r"llmctl ((?:data |tokenizer )?[a-z]+)([^&#\n]*)", CODE)
    assert len(used) > 6
    for command, arguments in used:
        shown = llmctl(*command.split(), "--help")
        assert shown.returncode == 0, command
        for option in re.findall(r"--[a-z]+", arguments):
            assert option in shown.stdout, f"{command} {option}"


def test_every_make_verb_of_the_readme_is_in_the_makefile() -> None:
    verbs = set(re.findall(r"make ([a-z]+)", README.replace("Python 3.11 to 3.13, make and", "")))
    assert verbs >= {"demo", "test", "check"}
    makefile = (ROOT / "Makefile").read_text()
    assert [v for v in verbs if not re.search(rf"^{v}:", makefile, flags=re.MULTILINE)] == []


def test_every_file_that_the_readme_points_to_exists_and_says_something() -> None:
    paths = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(
        r"`((?:trainer_daemon|cli|tui)/[\w/]+\.py)`", README
    )
    assert [p for p in paths if not (ROOT / p).exists() or (ROOT / p).stat().st_size == 0] == []


def test_every_file_that_a_newcomer_is_sent_to_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:[\w-]+/)+(?:[\w.-]+)?|[A-Z]+\.md)`", text))
    assert len(named) > 40
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
    for word in re.findall(r"`([A-Z]\w+)(?:\([^`]*\))?`", text):  # a class or a table, beside its file
        source = (path.read_text() for path in (*ROOT.glob("trainer_daemon/**/*.py"), *ROOT.glob("tui/*.py")))
        assert any(re.search(rf"^(?:class )?{word}\b", code, flags=re.MULTILINE) for code in source), word


@pytest.mark.parametrize(
    "line", [x.split("#")[0].strip() for x in CODE.splitlines() if x.startswith("llmctl plan")]
)
def test_the_plan_of_the_readme_can_be_made(line: str) -> None:
    shown = llmctl(*line.split()[1:])
    assert shown.returncode == 0, shown.stderr
    assert "FLOPs" in shown.stdout


def test_the_alerts_of_the_readme_are_a_spec_and_its_message_is_the_one_that_is_sent() -> None:
    (block,) = re.findall(r"```toml\n(\[alerts\].*?)```", README, flags=re.DOTALL)
    assert build_spec(tomllib.loads(block)).alerts.command
    (told,) = re.findall(r"The message says what happened in (.*?)\.\n", README, flags=re.DOTALL)
    sent = message(RunDir(Path("a")), "crash", "failed: an example", RunStatus("a"))
    assert set(re.findall(r"`(\w+)`", told)) == set(sent)
