"""`python -m tests.tui.cockpit_keys` writes the tables of docs/COCKPIT.md anew from the bindings; a test compares them."""

from pathlib import Path

from textual.binding import Binding

from tui.app import Cockpit
from tui.screens.cockpit_keys import key_sections

DOCUMENT = Path(__file__).parents[2] / "docs" / "COCKPIT.md"
MARK = "<!-- written by: python -m tests.tui.cockpit_keys -->\n"


def key_tables() -> str:
    app = Cockpit(None)
    lines = []
    for title, owners in key_sections():
        lines += ["", f"### {title}", "", "| key | does | id |", "|---|---|---|"]
        for binding in (
            b for owner in owners for b in owner.BINDINGS if isinstance(b, Binding) and b.tooltip
        ):
            keys = " ".join(f"`{app.get_key_display(single)}`" for single in Binding.make_bindings([binding]))
            lines.append(f"| {keys} | {binding.tooltip} | `{binding.id}` |")
    return "\n".join(lines) + "\n"


def written_anew(text: str) -> str:
    return text[: text.index(MARK) + len(MARK)] + key_tables()


if __name__ == "__main__":
    DOCUMENT.write_text(written_anew(DOCUMENT.read_text()))
