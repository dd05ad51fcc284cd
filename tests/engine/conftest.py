"""One torch thread: the models here are too small to share, and two threads on a busy machine take ten times as long."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)
