"""Every error a user can meet, as one tree; each class carries the exit code that `llmctl` ends with.

LlmctlError                  1  our own bug, or anything not named below
├── SpecError                2  the spec, its arguments or the data it names cannot be run; nothing was started
├── NotFoundError            3  no such run, checkpoint or preset
├── RunFailedError           4  the run ended badly
├── WaitTimeoutError         5  the time given to wait is over
└── RefusedError             6  not now: lock held, name taken, no space, wrong state

A message is one paragraph that says what to change, in the reader's own terms.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import ClassVar


class LlmctlError(Exception):
    """Base of all errors that are meant for the user; `str(error)` is shown as it is."""

    exit_code: ClassVar[int] = 1


class SpecError(LlmctlError):
    """The spec, a command-line argument or the data it names is wrong. Nothing was started."""

    exit_code = 2


class NotFoundError(LlmctlError):
    """No run, checkpoint or preset answers to that name."""

    exit_code = 3


class RunFailedError(LlmctlError):
    """The run ended in `failed` or `crashed`."""

    exit_code = 4


class WaitTimeoutError(LlmctlError):
    """What was waited for did not come in the time given."""

    exit_code = 5


class RefusedError(LlmctlError):
    """The request is sound but cannot be granted now: a lock is held, a name is taken, there is no space."""

    exit_code = 6


def did_you_mean(word: str, known: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """A hint such as `; did you mean "depth"?`, or an empty string when nothing is near.

    `shown`: what to say in a known word's place, such as the whole key that ends with it.
    """
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{(shown or {}).get(near[0], near[0])}"?' if near else ""


def error_from(exit_code: int, message: str) -> LlmctlError:
    """The error that another process of ours ended or answered with."""
    for kind in (SpecError, NotFoundError, RunFailedError, WaitTimeoutError, RefusedError):
        if kind.exit_code == exit_code:
            return kind(message)
    return LlmctlError(message)
