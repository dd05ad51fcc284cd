"""Nothing executable is ever read, and nothing goes through a shell: held by reading every call and import of ours."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("cli", "tui", "presets", "trainer_daemon")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

FORBIDDEN_IMPORTS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub.load",
    "torch.package.PackageImporter",
    "recv_pyobj",
    "send_pyobj",
    "all_gather_object",
    "gather_object",
    "scatter_object_list",
    "broadcast_object_list",
    "send_object_list",
    "recv_object_list",
}
"""By their last names, or dotted where the last name alone means something harmless, too. The object collectives pickle."""
FORBIDDEN_KEYWORDS = {"shell": True, "allow_pickle": True, "weights_only": False, "trust_remote_code": True}


def violations(source: str) -> Iterator[str]:
    """What a module does that none of ours may do, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            for module in modules:
                if module.split(".")[0] in FORBIDDEN_IMPORTS:
                    yield f"line {node.lineno}: import {module}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS or called.rpartition(".")[2] in FORBIDDEN_CALLS - {"eval", "exec"}:
                yield f"line {node.lineno}: {called}()"
            for name, value in ((k.arg, k.value) for k in node.keywords):
                if isinstance(value, ast.Constant) and FORBIDDEN_KEYWORDS.get(str(name), ...) is value.value:
                    yield f"line {node.lineno}: {called}({name}={value.value})"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_of_ours_reads_what_can_execute_or_calls_a_shell(file: Path) -> None:
    assert list(violations(file.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "torch.load(path)",
        "socket.recv_pyobj()",
        "dist.broadcast_object_list([x])",
        "subprocess.run('ls', shell=True)",
        "np.load(f, allow_pickle=True)",
        "f(weights_only=False)",
        "eval('1')",
        "os.system('x')",
    ],
)
def test_the_gate_closes(source: str) -> None:
    assert len(list(violations(source))) == 1


@pytest.mark.parametrize(
    "source", ["model.eval()", "load_file(path)", "np.load(f)", "run(['ls'], shell=False)"]
)
def test_the_gate_lets_pass_what_is_harmless(source: str) -> None:
    assert list(violations(source)) == []
