"""What a key on a checkpoint leads to: the command that does it, after a question where something is lost or begun."""

from collections.abc import Callable, Sequence
from typing import Literal

from textual.app import App

from tui.screens.confirm import Confirm
from tui.screens.type_in import TypeIn
from tui.wording import count

Act = Literal["verify", "pin", "delete", "fork", "export"]
Send = Callable[[Sequence[str]], None]
"""Has llmctl do what these words say."""


def begin(app: App[None], act: Act, run: str, step: int, *, is_pinned: bool, send: Send) -> None:
    """Ask what has to be asked, then send the words of the command."""
    checkpoint = f"{run}@{step}"
    match act:
        case "verify":
            send(["verify", checkpoint])
        case "pin":
            send(["unpin" if is_pinned else "pin", checkpoint])
        case "delete":
            app.push_screen(
                Confirm(
                    f"Delete the checkpoint of step {count(step)}?",
                    "Its files are removed at once. The curves stay.",
                ),
                lambda is_sure: send(["discard", checkpoint, "--yes"]) if is_sure else None,
            )
        case "fork":
            app.push_screen(
                TypeIn(
                    f"Fork {checkpoint} into a new run?",
                    "It begins with this checkpoint's weights, optimizer and data position. What is to be different, as "
                    "KEY=VALUE with blanks between, e.g. optim.matrix_lr=0.01 train.num_iterations=20000; or nothing:",
                ),
                lambda typed: None if typed is None else send(fork_words(checkpoint, typed)),
            )
        case "export":
            app.push_screen(
                TypeIn(
                    f"Export {checkpoint} where to?",
                    "A folder that is not there yet, for safetensors, config.json and tokenizer.json.",
                    initial=f"{run}-{step}",
                ),
                lambda typed: (
                    send(["export", checkpoint, typed.strip()]) if typed and typed.strip() else None
                ),
            )


def fork_words(checkpoint: str, changes: str) -> list[str]:
    """`a.b=1 c=2` -> `fork RUN@STEP --set a.b=1 --set c=2 --detach`"""
    options = [word for change in changes.split() for word in ("--set", change)]
    return ["fork", checkpoint, *options, "--detach"]
