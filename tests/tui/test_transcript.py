"""Text that grows below and is read above."""

from collections.abc import Sequence
from functools import partial

from rich.text import Text
from textual.app import App, ComposeResult

from tui.widgets.transcript import Block, Transcript


class Reader(App[None]):
    def compose(self) -> ComposeResult:
        yield Transcript()


def blocks(lines: Sequence[str]) -> list[Block]:
    return [Block(line, partial(lambda line, _width: [Text(line)], line)) for line in lines]


def seen(transcript: Transcript) -> list[str]:
    return [transcript.render_line(y).text.rstrip() for y in range(transcript.size.height)]


async def test_the_tail_is_followed_until_one_scrolls_away_and_again_when_one_comes_back() -> None:
    async with Reader().run_test(size=(40, 5)) as pilot:
        transcript = pilot.app.query_one(Transcript)
        lines = [f"line {n}" for n in range(20)]
        transcript.show(blocks(lines[:10]))
        await pilot.pause()
        assert seen(transcript) == lines[5:10]
        transcript.focus()
        await pilot.press("g")
        await pilot.pause()
        transcript.show(blocks(lines[:15]))
        assert seen(transcript) == lines[:5]
        await pilot.press("G")
        await pilot.pause()
        transcript.show(blocks(lines))
        assert seen(transcript) == lines[15:]


async def test_only_new_blocks_are_laid_out() -> None:
    laid_out: list[str] = []

    def layout(line: str, _width: int) -> list[Text]:
        laid_out.append(line)
        return [Text(line)]

    async with Reader().run_test(size=(40, 5)) as pilot:
        transcript = pilot.app.query_one(Transcript)
        for count in range(1, 4):
            transcript.show([Block(n, partial(layout, f"line {n}")) for n in range(count)])
        assert laid_out == ["line 0", "line 1", "line 2"]
        await pilot.pause()
