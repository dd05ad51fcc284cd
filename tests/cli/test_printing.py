"""Numbers the way people read them."""

import pytest

from cli.printing import WordWrap, clock, count, duration, number, pairs, percent, size, table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (7, "7"),
        (999.4, "999"),
        (999.6, "1k"),
        (1234, "1.23k"),
        (1_681_786_938, "1.68B"),
        (2e13, "20T"),
        (-1500, "-1.5k"),
    ],
)
def test_counts_have_three_figures_and_a_unit(value: float, shown: str) -> None:
    assert count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0B"), (1500, "1.5kB"), (12_147_000_000, "12.1GB"), (3.2e12, "3.2TB")]
)
def test_sizes_are_decimal(value: float, shown: str) -> None:
    assert size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (60, "1m00s"),
        (93, "1m33s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (18_540, "5h09m"),
        (900_000, "10d10h"),
    ],
)
def test_durations_keep_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_the_unknown_is_a_dash() -> None:
    assert [f(None) for f in (count, size, duration, percent, clock, number)] == ["-"] * 6


def test_tables_align_names_left_and_numbers_right() -> None:
    assert table(("A", "B"), [("x", "1"), ("long", "22")]) == "A      B\nx      1\nlong  22"
    assert pairs([("a", "1"), ("long", "2")]) == "a     1\nlong  2"


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_text_that_streams_breaks_between_words(size: int) -> None:
    text = "The fox went home, and\n\nslept  well: Donaudampfschifffahrt 数字数字数字 x"
    wrap = WordWrap(20)
    shown = "".join(wrap.push(text[i : i + size]) for i in range(0, len(text), size)) + wrap.finish()
    assert shown.split("\n") == [  # the last line is one and a column: the terminal breaks what no word ends
        "The fox went home,",
        "and",
        "",
        "slept  well:",
        "Donaudampfschifffahrt 数字数字数字 x",
    ]
    assert "".join(shown.split()) == "".join(text.split())


def test_where_nobody_reads_on_a_terminal_streamed_text_is_left_as_it_is() -> None:
    wrap = WordWrap(None)
    assert [wrap.push("a " * 200), wrap.push(" \n"), wrap.finish()] == ["a " * 200, " \n", ""]
