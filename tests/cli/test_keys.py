"""`keys`, and `run --listen` as far as it refuses; what listens is tested in tests/link/test_tcp.py."""

import re

from tests.cli.conftest import Llmctl
from trainer_daemon.contract.rundir import all_runs


def test_keys_are_made_once_let_in_by_name_listed_and_revoked(llmctl: Llmctl) -> None:
    made = llmctl("keys", "make")
    key = made.out.strip()
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert f"keys allow NAME {key}" in made.err
    assert llmctl("keys", "make").out.strip() == key
    assert "nobody is let in" in llmctl("keys", "list").err
    assert llmctl("keys", "allow", "laptop", key).code == 0
    assert llmctl("keys", "list").out.split() == ["NAME", "KEY", "laptop", key]
    assert llmctl("keys", "list", "--json").json() == {"laptop": key}
    assert llmctl("keys", "allow", "desk", "abc").code == 2
    assert llmctl("keys", "revoke", "desk").code == 3
    assert llmctl("keys", "revoke", "laptop").code == 0
    assert llmctl("keys", "list", "--json").json() == {}


def test_a_run_that_cannot_listen_is_not_begun(llmctl: Llmctl) -> None:
    small = ("--set", "model.depth=2", "--set", "data.stories=200", "--detach")
    refused = llmctl("run", "--listen", "127.0.0.1:7700", *small)
    assert refused.code == 6
    assert "make them with: llmctl keys make" in refused.err
    llmctl("keys", "make")
    refused = llmctl("run", "--listen", "0.0.0.0:7700", *small)
    assert refused.code == 2
    assert "every network" in refused.err
    assert all_runs() == []
