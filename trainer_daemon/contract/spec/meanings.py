"""What each choice of a spec means: the docstring under its field. Read from the source when somebody asks; pydantic would read it for
every process that loads the spec, which took as long as making the models."""

import ast
import inspect
from functools import cache
from itertools import pairwise

from trainer_daemon.contract.spec.run_spec import RunSpec
from trainer_daemon.contract.spec.section import Section, section_of


def meaning_of(key: str) -> str:
    """Of a key as `--set` takes it, on one line."""
    name, _, inner = key.partition(".")
    section = section_of(RunSpec.model_fields[name].annotation) if inner else RunSpec
    assert section is not None, key
    return _meanings(section)[inner or name]


@cache
def _meanings(section: type[Section]) -> dict[str, str]:
    """By the field's name."""
    [declared] = ast.parse(inspect.getsource(section)).body
    assert isinstance(declared, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in pairwise(declared.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
