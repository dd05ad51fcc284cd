"""The endpoint on a real port, behind it a real worker socket with a parrot."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import uvicorn

from tests.cli.conftest import add_checkpoint, completed_run, home
from tests.cli.parrot import Parrot
from trainer_daemon.gateway.app import ServedModel, build_app

__all__ = ["home"]

TOKEN = "open sesame"
MODEL, CHAT_MODEL = "done@10", "done@20"


@dataclass(frozen=True)
class Endpoint:
    url: str
    parrot: Parrot
    client: openai.OpenAI


@pytest.fixture
def endpoint(home: Path) -> Iterator[Endpoint]:
    run = completed_run()
    served = {
        MODEL: ServedModel(add_checkpoint(run, 10), is_chat=False),
        CHAT_MODEL: ServedModel(add_checkpoint(run, 20), is_chat=True),
    }
    parrot = Parrot()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(build_app(served, TOKEN), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0) as client:
            client.models.list()  # it is up
            yield Endpoint(url, parrot, client)
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
    parrot.close()
