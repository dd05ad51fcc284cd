"""Whole charts as text. Small goldens say what a reader sees; the rest are promises about size, colour and axes."""

from dataclasses import replace

import numpy as np
import pytest

from tui.chart.draw import GUTTER, Drawing, draw
from tui.chart.figure import Figure, Mark, MarkKind, Reference, Series
from tui.chart.marks import LOOKS, legend, letter
from tui.chart.palette import ANSI, DARK, LIGHT, Palette
from tui.chart.symbols import ASCII, BLOCK, BRAILLE, Symbols
from tui.chart.view import Bounds, View
from tui.store import Ema

RAW = View(smoothing=0)


def text_of(drawing: Drawing) -> list[str]:
    return ["".join(segment.text for segment in row) for row in drawing.rows]


def colours_of(drawing: Drawing) -> set[str]:
    """The colours of everything but blanks between the title and the x labels, the gutter left out."""
    segments = [segment for row in drawing.rows[1:-1] for segment in row[1:]]
    return {
        str(segment.style.color.name)
        for segment in segments
        if segment.text.strip() and segment.style and segment.style.color
    }


def line(y: list[float], **fields: object) -> Series:
    return Series("", np.arange(float(len(y))), np.array(y), **fields)  # type: ignore[arg-type]  # any field of Series


def noisy(points: int, colour: int = 0) -> Series:
    x = np.arange(float(points))
    y = 2.5 + 8 * np.exp(-x / points * 20) + np.random.default_rng(colour).normal(0, 0.1, points)
    return Series(f"run{colour}", x, y, Ema(0.98).extend(y), colour)


def test_a_falling_line_with_a_gap() -> None:
    drawing = draw(Figure("loss", [line([8, 4, 2, 1, np.nan, 1, 1])]), RAW, 32, 8, DARK)
    assert text_of(drawing) == [
        "loss 1                          ",
        "      8┤⢦                       ",
        "      6┤⠈⢧⡀                     ",
        "       │  ⠳⡄                    ",
        "      4┤   ⠙⢦⡀                  ",
        "      2┤     ⠉⠳⣄⡀               ",
        "       │        ⠉⠓⠲⠤       ⠤⠤⠤⠤⠄",
        "        0      2       4       6",
    ]


def test_the_same_line_for_a_terminal_without_unicode() -> None:
    drawing = draw(Figure("loss", [line([8, 4, 2, 1, np.nan, 1, 1])]), RAW, 32, 8, DARK, symbols=ASCII)
    assert all(row.isascii() for row in text_of(drawing))


@pytest.mark.parametrize("symbols", [BRAILLE, BLOCK, ASCII], ids=lambda symbols: symbols.name)
@pytest.mark.parametrize("palette", [DARK, LIGHT, ANSI], ids=["dark", "light", "ansi"])
@pytest.mark.parametrize("size", [(1, 1), (8, 3), (13, 4), (24, 5), (60, 20), (120, 40)])
def test_a_drawing_is_exactly_as_large_as_asked(
    symbols: Symbols, palette: Palette, size: tuple[int, int]
) -> None:
    figure = Figure(
        "train/loss", [noisy(500), noisy(500, 1)], [Reference(2.4, "floor")], [Mark(250, "restart")]
    )
    view = View(clip=True, log_y=True, cursor=100.0)
    for shown in (figure, Figure("train/loss"), replace(figure, x_axis="seconds")):
        rows = text_of(draw(shown, view, *size, palette, symbols=symbols))
        assert [len(row) for row in rows] == [size[0]] * size[1]


def test_a_smoothed_series_is_a_bright_line_over_a_faded_band() -> None:
    drawing = draw(Figure("loss", [noisy(5000)]), View(x_span=1000), 60, 20, DARK)
    line_colour, band_colour = DARK.lines[0].color, DARK.bands[0].color
    assert line_colour is not None
    assert band_colour is not None
    assert colours_of(drawing) == {line_colour.name, band_colour.name}


def test_smoothing_is_told_only_where_a_curve_is_smoothed() -> None:
    smoothed, plain = (
        text_of(draw(Figure("loss", [series]), View(smoothing=0.98), 40, 8, DARK))[0]
        for series in (noisy(100), line([3, 2, 1]))
    )
    assert smoothed.endswith("ema 0.98")
    assert plain.split() == ["loss", "1"]


def test_a_line_stays_thin_over_its_own_band() -> None:
    series = noisy(5000)
    assert series.smooth is not None
    smoothed = draw(Figure("loss", [series]), View(), 60, 20, DARK)
    alone = draw(
        Figure("loss", [replace(series, y=series.smooth, smooth=None)]),
        RAW,
        60,
        20,
        DARK,
        previous=smoothed.bounds,
    )
    for over_band, plain in zip(text_of(smoothed)[1:-1], text_of(alone)[1:-1], strict=True):
        assert all(dots in (" ", over) for over, dots in zip(over_band[GUTTER:], plain[GUTTER:], strict=True))


def test_the_first_series_is_drawn_on_top() -> None:
    same = [3.0, 2.0, 1.0]
    drawing = draw(Figure("loss", [line(same, colour=2), line(same, colour=4)]), RAW, 40, 10, DARK)
    top = DARK.lines[2].color
    assert top is not None
    assert colours_of(drawing) == {top.name}


def test_a_ghost_is_faded_and_stays_out_of_the_legend() -> None:
    ghost = Series("old", np.arange(3.0, 6.0), np.array([5.0, 6.0, 7.0]), colour=0, is_ghost=True)
    drawing = draw(Figure("loss", [line([3, 2, 1, 1]), ghost]), RAW, 40, 10, DARK)
    faded = DARK.bands[0].color
    assert faded is not None
    assert faded.name in colours_of(drawing)
    assert "old" not in text_of(drawing)[0]


def test_the_legend_reads_the_newest_value_or_the_one_under_the_crosshair() -> None:
    figure = Figure("mfu %", [Series("a", np.arange(5.0), np.array([0.1, 0.2, 0.3, 0.4, 0.5]))], factor=100)
    assert text_of(draw(figure, RAW, 40, 6, DARK))[0].rstrip() == "mfu % ━a 50"
    at_one = draw(figure, replace(RAW, cursor=1.2), 40, 6, DARK)
    assert text_of(at_one)[0].rstrip() == "mfu % step 1 ━a 20"
    with_little_room = draw(figure, replace(RAW, cursor=1.2), 15, 6, DARK)
    assert text_of(with_little_room)[0].rstrip() == "mfu % 1 ━a 20", "the values before the axis's name"


def test_nothing_is_read_off_where_a_run_has_no_points() -> None:
    short = Series("a", np.arange(5.0), np.full(5, 2.0))
    long = Series("b", np.arange(20.0), np.arange(20.0))
    figure = Figure("loss", [short, long])
    for cursor, read in ((4.0, "━a 2 ━b 4"), (5.0, "━a 2 ━b 5"), (9.0, "━a – ━b 9")):
        title = text_of(draw(figure, replace(RAW, cursor=cursor), 60, 6, DARK))[0]
        assert title.rstrip().endswith(read)
    measured = text_of(draw(figure, replace(RAW, cursor=3.0, anchor=9.0), 60, 6, DARK))[0]
    assert measured.rstrip().endswith("━a 2 ━b 3 Δ -6"), "no difference from where there is nothing"


def test_a_legend_too_long_ends_in_an_ellipsis() -> None:
    figure = Figure("loss", [replace(noisy(10, colour), label=f"run-{colour}") for colour in range(6)])
    title = text_of(draw(figure, View(), 40, 8, DARK))[0]
    assert title.startswith("loss ━run-0 ")
    assert "…" in title


def test_outliers_flatten_the_axis_unless_they_are_clipped() -> None:
    y = np.random.default_rng(0).normal(1.0, 0.1, 1000)
    y[500] = 100.0
    figure = Figure("grad_norm", [Series("", np.arange(1000.0), y)])
    whole = draw(figure, RAW, 60, 12, DARK).bounds
    clipped = draw(figure, replace(RAW, clip=True), 60, 12, DARK).bounds
    assert whole is not None
    assert clipped is not None
    assert whole.y[1] > 100
    assert clipped.y[1] < 2


def test_a_near_reference_gets_room_and_a_far_one_does_not_flatten_the_data() -> None:
    series = [line([4.0, 3.5, 3.0])]
    near = draw(Figure("loss", series, [Reference(2.4, "floor")]), RAW, 50, 12, DARK)
    far = draw(Figure("loss", series, [Reference(-50.0, "floor")]), RAW, 50, 12, DARK)
    assert any("floor 2.4" in row for row in text_of(near))
    assert far.bounds is not None
    assert far.bounds.y[0] > 2.5


def test_a_power_law_is_a_straight_line_between_two_log_axes() -> None:
    x = np.arange(10_001.0)
    y = np.concatenate([[np.nan], 100 / x[1:]])
    figure = Figure("loss", [Series("", x, y)], marks=[Mark(0, "restart"), Mark(100, "restart")])
    drawing = draw(figure, View(smoothing=0, log_x=True, log_y=True), 48, 13, ANSI)
    assert text_of(drawing) == [
        "loss 0.01                              log x log",
        "    100┤⠤⣄⡀                »                    ",
        "       │  ⠙⠲⢤⣀             ⠅                    ",
        "       │     ⠈⠙⠲⢤⣀         ⠅                    ",
        "       │         ⠈⠙⠲⣄⡀     ⠅                    ",
        "       │             ⠉⠓⠦⣄⡀ ⠅                    ",
        "      1┤                 ⠉⠓⠦⣄⡀                  ",
        "       │                   ⠅ ⠉⠓⠦⣄⡀              ",
        "       │                   ⠅     ⠙⠲⢤⣀           ",
        "       │                   ⠅        ⠈⠙⠲⢤⣀       ",
        "       │                   ⠅            ⠈⠙⠲⢤⣀   ",
        "   0.01┤                   ⠅                ⠈⠙⠂ ",
        "        1                 100                10k",
    ]


def test_events_stand_as_vertical_marks_where_they_happened() -> None:
    drawing = draw(Figure("loss", [line([1.0] * 101)], marks=[Mark(50, "restart")]), RAW, 60, 12, DARK)
    column = GUTTER + int(50 / 104 * (60 - GUTTER))
    marked = [row[column] for row in text_of(drawing)[1:-1]]
    assert all(character != " " for character in marked)


@pytest.mark.parametrize("symbols", [BRAILLE, BLOCK, ASCII], ids=lambda symbols: symbols.name)
def test_each_kind_of_mark_has_a_letter_that_covers_no_data_and_can_be_put_away(symbols: Symbols) -> None:
    kinds: list[MarkKind] = list(LOOKS)
    marks = [Mark(10 + 15 * place, kind) for place, kind in enumerate(kinds)]
    figure = Figure("loss", [line([2.0] * 40 + [1.0] * 61)], marks=marks)
    plain = draw(figure, replace(RAW, shows_marks=False), 90, 12, DARK, symbols=symbols)
    assert text_of(plain) == text_of(draw(replace(figure, marks=()), RAW, 90, 12, DARK, symbols=symbols))
    marked = draw(figure, RAW, 90, 12, DARK, symbols=symbols)
    curve = [
        (y, x)
        for y, row in enumerate(text_of(plain)[1:-1], 1)
        for x, glyph in enumerate(row[GUTTER:], GUTTER)
        if glyph != " "
    ]
    seen = "".join(text_of(marked)[1:-1])
    for kind in kinds:
        assert letter(kind, symbols) in seen, kind
        assert f"{letter(kind, symbols)} {LOOKS[kind].word}" in legend(kinds, DARK, symbols).plain
    assert len({letter(kind, symbols) for kind in kinds}) == len(kinds)
    for y, x in curve:
        assert text_of(marked)[y][x] not in symbols.marks, "a letter covers the curve"


def test_a_mark_with_a_place_on_the_curve_stands_there_and_the_chosen_one_stands_out() -> None:
    marks = [Mark(25, "checkpoint", 25.0), Mark(75, "checkpoint", 75.0, is_chosen=True)]
    drawing = draw(Figure("loss", [line([float(y) for y in range(101)])], marks=marks), RAW, 60, 22, DARK)
    places = [(y, row.index("◆")) for y, row in enumerate(text_of(drawing)) if "◆" in row]
    assert [y for y, _ in places] == sorted((y for y, _ in places), reverse=False)
    assert len(places) == 2
    assert places[0][1] > places[1][1], "it rises, so the later one stands higher"
    styles = [s.style for row in drawing.rows for s in row if "◆" in s.text]
    assert styles[0] is not None
    assert styles[0].reverse
    assert styles[0] != styles[1]


@pytest.mark.parametrize("last_x", [0.0, 50.0, 100.0])
def test_the_chosen_mark_alone_is_reversed_and_not_the_blanks_beside_it(last_x: float) -> None:
    marks = [Mark(last_x, "checkpoint", 80.0, is_chosen=True)]
    figure = Figure("loss", [line([float(y) for y in range(101)])], marks=marks)
    drawing = draw(figure, RAW, 60, 22, DARK)
    assert [s.text for row in drawing.rows for s in row if s.style and s.style.reverse] == ["◆"]


def test_marks_too_dense_to_tell_apart_are_left_out() -> None:
    marks = [Mark(x, "checkpoint") for x in range(101)]
    with_marks = draw(Figure("loss", [line([1.0] * 101)], marks=marks), RAW, 60, 12, DARK)
    assert text_of(with_marks) == text_of(draw(Figure("loss", [line([1.0] * 101)]), RAW, 60, 12, DARK))


def test_nothing_to_draw_says_so() -> None:
    assert any("no data yet" in row for row in text_of(draw(Figure("loss"), RAW, 40, 8, DARK)))
    all_nan = Figure("loss", [line([np.nan, np.nan])])
    assert any("no values here" in row for row in text_of(draw(all_nan, RAW, 40, 8, DARK)))
    negative = draw(Figure("x", [line([-1.0, -2.0])]), replace(RAW, log_y=True), 60, 8, DARK)
    assert any("nothing above 0" in row for row in text_of(negative))


def test_a_new_point_at_the_tail_moves_the_picture_by_whole_columns() -> None:
    full = noisy(20_000)
    drawn: dict[Bounds | None, set[str]] = {}
    for points in range(10_000, 10_050):
        cut = Series("", full.x[:points], full.y[:points])
        drawing = draw(Figure("loss", [cut]), replace(RAW, x_span=2000.0), 60, 12, DARK)
        # All but the newest pixel columns: those are still being filled.
        settled = "\n".join(row[: GUTTER + 49] for row in text_of(drawing)[1:-1])
        drawn.setdefault(drawing.bounds, set()).add(settled)
    assert len(drawn) <= 6
    assert all(len(pictures) == 1 for pictures in drawn.values())


def test_zoom_pan_follow_and_fit_keep_the_window_on_the_data() -> None:
    data, seen = (0.0, 1000.0), Bounds((0.0, 1040.0), (0.0, 1.0))
    zoomed = View().zoomed(0.5, seen, data)
    assert (zoomed.x_span, zoomed.x_end) == (520.0, None)
    about_cursor = View(cursor=260.0).zoomed(0.5, seen, data)
    assert about_cursor.x_end == 260 + 0.75 * 520
    back = zoomed.panned(-0.25, Bounds((480.0, 1000.0), (0.0, 1.0)), data)
    assert back.x_end == 870
    assert back.panned(0.5, Bounds((350.0, 870.0), (0.0, 1.0)), data).x_end is None
    assert zoomed.zoomed(10, seen, data) == View()
    assert View().following(data).x_span == 100
    assert back.fitted() == View()


def test_keys_that_come_faster_than_drawings_add_up() -> None:
    data, seen = (0.0, 1000.0), Bounds((0.0, 1040.0), (2.0, 4.0))
    twice = View().zoomed(0.5, seen, data).zoomed(0.5, seen, data)
    assert (twice.x_span, twice.x_end) == (260.0, None)
    beside = twice.panned(-0.5, seen, data).panned(-0.5, seen, data)
    assert beside.x_end == 1040 - 260
    assert beside.zoomed(0.5, seen, data).x_end == 1040 - 260 - 65, "about the middle of what will be seen"
    at_cursor = View(cursor=260.0).zoomed(0.5, seen, data).zoomed(0.5, seen, data)
    assert at_cursor.x_end == 260 + 0.75 * 260
    assert View().with_y_zoomed(0.5, seen).with_y_zoomed(0.5, seen).y == (2.75, 3.25)
    assert View().with_y_panned(0.5, seen).with_y_panned(0.5, seen).y == (4.0, 6.0)


def test_the_smoothing_dial_stops_at_both_ends() -> None:
    assert View(smoothing=0.0).smoothed(-1).smoothing == 0.0
    assert View(smoothing=0.999).smoothed(1).smoothing == 0.999
