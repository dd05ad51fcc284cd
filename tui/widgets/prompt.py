"""The line at the foot of the cockpit where one talks to the model. Remembers what was said, like a shell.

A beginning may have several lines: pasted ones are kept, and `LINE_END` stands for where each ends.
"""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input

from tui.key_names import Hint
from tui.widgets.line_input import LineInput
from tui.widgets.lines import Lines
from tui.widgets.ready import Backdrop

LINE_END = "↵"


def typing_hints(*, is_answering: bool, keys: str = "to the keys") -> tuple[Sequence[Hint], Sequence[Hint]]:
    """What keys do while one types, when letters are letters: (as many as fit, the way out). `is_answering`: a text that can be
    stopped is being written, and the first escape does that; `keys`: where the next one leads."""
    out = "stop the answer" if is_answering else keys
    return [("⏎", "ask"), ("prompt.earlier", "asked before"), ("prompt.line", "new line")], [
        ("prompt.leave", out)
    ]


class PromptInput(LineInput):
    JOINED_BY = LINE_END
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "up", "recall(-1)", "Earlier", id="prompt.earlier", tooltip="What was asked before", show=False
        ),
        Binding(
            "down", "recall(1)", "Later", id="prompt.later", tooltip="What was asked after that", show=False
        ),
        Binding(
            "ctrl+j",
            "end_line",
            "New line",
            id="prompt.line",
            tooltip=f"What comes next is on a new line; {LINE_END} stands for it",
            show=False,
        ),
        Binding(
            "escape", "leave", "Leave", id="prompt.leave", tooltip="Stop the answer, else back to the keys"
        ),
    ]

    class Left(Message):
        """The reader is done here."""

    def __init__(self) -> None:
        super().__init__(placeholder="", id="prompt-input", compact=True, select_on_focus=False)
        self._said: list[str] = []
        self._at = 0

    def remember(self, text: str) -> None:
        if not self._said or self._said[-1] != text:
            self._said.append(text)
        self._at = len(self._said)

    def action_recall(self, by: int) -> None:
        self._at = min(max(self._at + by, 0), len(self._said))
        self.value = self._said[self._at] if self._at < len(self._said) else ""
        self.cursor_position = len(self.value)

    def action_end_line(self) -> None:
        self.insert_text_at_cursor(LINE_END)

    def action_leave(self) -> None:
        self.post_message(self.Left())


class PromptLine(Horizontal, Backdrop):
    DEFAULT_CSS = """
    PromptLine { height: 1; background: $surface; }
    PromptLine #prompt-target { width: auto; padding: 0 1; background: $surface; }
    PromptLine Input { width: 1fr; background: $surface; padding: 0; }
    PromptLine Input:focus { background: $surface; background-tint: transparent; }
    PromptLine #prompt-sampling { width: auto; padding: 0 1; background: $surface; }
    """

    class Asked(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def compose(self) -> ComposeResult:
        yield Lines([Text("›")], id="prompt-target")
        yield PromptInput()
        yield Lines([Text()], id="prompt-sampling")

    def show(self, target: Text, sampling: Text, placeholder: str) -> None:
        """Who answers, how, and what may be said."""
        self.query_one("#prompt-target", Lines).show([target])
        self.query_one("#prompt-sampling", Lines).show([sampling])
        line = self.query_one(PromptInput)
        if line.placeholder != placeholder:
            line.placeholder = placeholder

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value:
            line = self.query_one(PromptInput)
            line.remember(event.value)
            line.value = ""
            self.post_message(self.Asked(event.value.replace(LINE_END, "\n")))
