"""What a model or a rank writes must not steer the reader's terminal."""

import pytest

from trainer_daemon.contract.text import printable


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("red \x1b[31malert\x1b[0m", "red alert"),
        ("\x1b]0;new title\x07title", "title"),
        ("\x1b]52;c;cm0gLXJmIH4=\x1b\\clip", "clip"),
        ("\x1bPdevice\x1b\\control", "control"),
        ("\x9b2Jone byte", "one byte"),
        ("\x1bcreset", "reset"),
        ("back\b\b\b\bspace\x00\x7f\x85", "backspace"),
        ("carriage\rreturn", "carriagereturn"),
        ("user\u202etxt.exe", "usertxt.exe"),
        ("\u2066isolate\u2069", "isolate"),
        ("lone \udc80 surrogate", "lone  surrogate"),
        ("unfinished \x1b[12", "unfinished 12"),
        ("unfinished \x1b", "unfinished "),
    ],
)
def test_what_could_steer_a_terminal_is_dropped(hostile: str, shown: str) -> None:
    assert printable(hostile) == shown


def test_an_unfinished_title_sequence_takes_its_own_line_only() -> None:
    assert printable("\x1b]0;title\nnext line") == "\nnext line"


def test_text_of_any_script_with_newlines_and_tabs_stays() -> None:
    text = "naïve\tcafé\n数学 🙂 \N{ARABIC LETTER ALEF} e\u0301 👩\u200d🔬"
    assert printable(text) == text
