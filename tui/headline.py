"""The lines of text around the charts, as pure functions of what is known: the header, the banner, the readings, the
latest words. What does not fit is left out whole, the least important first."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

from trainer_daemon.contract.text import printable
from tui.chart.axis import compact, duration
from tui.chart.palette import Palette
from tui.feed import LinkState
from tui.ink import GLYPH_OF_STATE, GREEN, HUE_OF_LEVEL, HUE_OF_STATE, ORANGE, SKY, VERMILION, hue, trough
from tui.run_state import Note, RunState, Sample
from tui.wording import UNKNOWN, bar, clock, count, fixed, percent, size

BAR_WIDTH_MIN, BAR_WIDTH_MAX = 8, 32
READINGS_WIDTH = 25
ALERT_STEPS = 500
"""How long an alert stays in the banner; after that it is in the log of events."""
SILENCE_SECONDS = 20.0
"""A live run that has said nothing for so long, and for ten steps of its own, is worth a word."""

_LINK_WORDS: dict[LinkState | None, str] = {
    "live": "live",
    "disk": "from disk",
    "lost": "link lost",
    None: "opening",
}
_LINK_HUES: dict[LinkState | None, int] = {"live": GREEN, "lost": VERMILION}


def headline(
    state: RunState,
    link: LinkState | None,
    silent_seconds: float,
    width: int,
    ink: Palette,
    place: str = "",
    unseen: int = 0,
) -> Text:
    """State, name, progress, time left and link in one row of at most `width` cells.

    `place`: the other machine that the run is on, and how the way there is. `unseen`: alerts that nobody has said to have seen.
    """
    status = state.status
    colour = hue(ink, HUE_OF_STATE[status.state])
    left = Text.assemble(
        (f" {GLYPH_OF_STATE[status.state]} {status.state}", colour + Style(bold=True)),
        "  ",
        (status.name, ink.title),
    )
    link_word = Text(f"{_LINK_WORDS[link]} ", ink.muted)
    if link in _LINK_HUES:
        link_word.style = hue(ink, _LINK_HUES[link])
    if link == "live" and is_silent(state, silent_seconds):
        link_word = Text(f"silent for {duration(silent_seconds)} ", hue(ink, ORANGE))

    if place:
        link_word = Text.assemble(link_word, "· ", (f"{place} ", ink.muted))

    pieces: list[Text] = []
    if status.total_steps:
        pieces.append(
            Text.assemble((f"{count(status.step)}", ""), (f"/{count(status.total_steps)}", ink.muted))
        )
        pieces.append(Text(percent(state.share_done)))
    elif status.step:
        pieces.append(Text(f"step {count(status.step)}"))
    if status.eta_seconds is not None and not state.has_ended:
        pieces.append(Text.assemble(("ETA ", ink.muted), duration(max(1.0, status.eta_seconds))))
    if unseen:
        pieces.append(Text(f"{unseen} alert{'s' * (unseen > 1)}", hue(ink, ORANGE)))
    if status.restarts:
        pieces.append(Text(f"{status.restarts} restart{'s' * (status.restarts > 1)}", hue(ink, ORANGE)))

    def used() -> int:
        return left.cell_len + link_word.cell_len + sum(piece.cell_len + 2 for piece in pieces) + 2

    while pieces and used() > width:
        pieces.pop()
    room = width - used() - 2
    if state.share_done is not None and room >= BAR_WIDTH_MIN:
        pieces.insert(0, _bar(state.share_done, min(room, BAR_WIDTH_MAX), colour, ink))
    middle = Text("  ").join([Text(), *pieces])
    gap = max(1, width - left.cell_len - middle.cell_len - link_word.cell_len)
    line = Text.assemble(left, middle, " " * gap, link_word)
    line.truncate(width)
    return line


def without_run(keys: Mapping[str, str], ink: Palette) -> Text:
    """The same row while no run is open. `keys`: binding id -> its key."""
    return Text.assemble((" no run is open", ink.title), (f"   {keys['pane.runs']} lists them", ink.muted))


def _bar(share: float, width: int, style: Style, ink: Palette) -> Text:
    done, open_part = bar(share, width)
    return Text.assemble((done, style), (open_part, trough(ink)))


def is_silent(state: RunState, silent_seconds: float) -> bool:
    """Whether a run that should be stepping has been quiet for longer than its own pace explains."""
    if state.status.state != "running":
        return False
    return silent_seconds > max(SILENCE_SECONDS, 10 * (state.status.step_seconds or 0.0))


def banner(
    state: RunState, width: int, ink: Palette, keys: Mapping[str, str], *, hides_alert: bool = False
) -> list[Text]:
    """What is wrong, or what to do now that the run has ended; no line at all while it simply goes on.

    `keys`: binding id -> its key. `hides_alert`: the newest alert is known to the reader.
    """
    status = state.status
    lines: list[Text] = []
    if status.error is not None:
        lines = _wrapped(printable(status.error["message"]), width, hue(ink, VERMILION), most=3)
        if status.state == "failed" and "llmctl" not in status.error["message"]:
            log = f"read the log ({keys['pane.log']})"
            advice = f"{log}; then continue from the last checkpoint: llmctl resume {status.name}"
            lines += _wrapped(advice, width, ink.muted, most=2)
    elif status.alert is not None and not hides_alert and status.step - status.alert["step"] <= ALERT_STEPS:
        lines = _wrapped(
            printable(status.alert["message"]), width, hue(ink, ORANGE), most=2, rest=keys["pane.alerts"]
        )
    elif status.state == "stopped":
        lines = _wrapped(f"stopped; continue it with: llmctl resume {status.name}", width, ink.muted, most=1)
    if state.has_ended and state.best_checkpoint is not None:
        words = f"press {keys['run.ask']} and talk to the model, or: llmctl chat {status.name}@best"
        lines += _wrapped(words, width, hue(ink, SKY), most=1)
    return lines


def _wrapped(text: str, width: int, style: Style, most: int, rest: str = "") -> list[Text]:
    """At most so many lines; `rest`: the key of the view that has what is left out."""
    room = max(width - 2, 10)
    lines = Text(text, style).wrap(Console(width=room), room)
    if rest and len(lines) > most:
        where = f" … {rest} has the rest"
        last = Text(lines[most - 1].plain, style).wrap(Console(width=room), max(room - len(where), 1))[0]
        last.rstrip()
        lines[most - 1] = last + Text(where, style)
    return [Text(" ") + line for line in lines[:most]]


def preparation(state: RunState, width: int, ink: Palette) -> list[Text]:
    """What is prepared before the first step, a line each, with bars."""
    lines = [Text("Getting ready", ink.title), Text()]
    latest = next(reversed(state.stages), None)
    name_width = max((len(name) for name in state.stages), default=0)
    for name, stage in state.stages.items():
        is_done = name != latest or (stage.total is not None and stage.done >= stage.total)
        glyph, style = ("✓", hue(ink, GREEN)) if is_done else ("◌", hue(ink, SKY))
        line = Text.assemble((f"{glyph} ", style), name.ljust(name_width), "  ")
        amount = (
            compact(stage.done) if stage.total is None else f"{compact(stage.done)} of {compact(stage.total)}"
        )
        room = width - line.cell_len - 24
        if stage.total and room >= BAR_WIDTH_MIN:
            line += _bar(stage.done / stage.total, min(room, BAR_WIDTH_MAX), style, ink)
            line.append("  ")
        line.append(f"{amount} {stage.unit}", ink.muted)
        lines.append(line)
    if not state.stages:
        lines.append(Text("waiting for the ranks", ink.muted))
    return lines


def readings(state: RunState, height: int, ink: Palette) -> list[Text]:
    """The column of figures, READINGS_WIDTH wide; groups that do not fit `height` are left out from the end."""
    s, plan, attempt = state.status, state.plan, state.attempt
    floor, bpb = s.bits_per_byte_floor, s.val_bpb
    above = bpb - floor if floor is not None and bpb is not None else None
    saved = s.last_checkpoint["step"] if s.last_checkpoint else None
    groups: list[list[tuple[str, str]]] = [
        [
            ("loss", fixed(state.smooth_loss_nats, 4)),
            ("val bpb", fixed(bpb, 4)),
            ("best", fixed(s.min_val_bpb, 4)),
            ("  at step", count(state.best_step)),
            *([("floor", fixed(floor, 4)), ("above floor", fixed(above, 4))] if floor is not None else []),
            *_core(s.core),
        ],
        [
            ("tokens/s", UNKNOWN if s.tokens_per_second is None else compact(s.tokens_per_second)),
            ("MFU", percent(s.mfu)),
            ("step time", UNKNOWN if s.step_seconds is None else _seconds(s.step_seconds)),
            *_time_split(s.step_parts),
            ("memory", UNKNOWN if s.memory_bytes is None else size(s.memory_bytes)),
            ("  at most", UNKNOWN if s.peak_memory_bytes is None else size(s.peak_memory_bytes)),
        ],
        [
            ("rate scale", fixed(s.learning_rate_scale, 3)),
            ("gradient norm", fixed(s.grad_norm, 3)),
        ],
        [
            ("tokens", compact(s.tokens)),
            ("  of", UNKNOWN if s.total_tokens is None else compact(s.total_tokens)),
            ("checkpoint", count(saved)),
            ("elapsed", _elapsed(state)),
        ],
        [
            ("parameters", UNKNOWN if plan is None else compact(plan.parameters)),
            ("batch tokens", UNKNOWN if plan is None else compact(plan.global_batch_tokens)),
            ("ranks", UNKNOWN if attempt is None else f"{attempt.world_size} × {attempt.device}"),
            ("precision", UNKNOWN if attempt is None else attempt.precision),
        ],
    ]
    lines: list[Text] = []
    for group in groups:
        needed = len(group) + (1 if lines else 0)
        if len(lines) + needed > height:
            break
        if lines:
            lines.append(Text())
        lines += [_reading(label, value, ink) for label, value in group]
    return lines


def strip(state: RunState, page: str, width: int, ink: Palette) -> Text:
    """The readings that no chart shows, in one row, for terminals too narrow for the column; at its end the page."""
    s = state.status
    pairs = [
        ("best", fixed(s.min_val_bpb, 4)),
        ("MFU", percent(s.mfu)),
        ("tokens", compact(s.tokens)),
        ("step", UNKNOWN if s.step_seconds is None else _seconds(s.step_seconds)),
        ("saved", count(s.last_checkpoint["step"] if s.last_checkpoint else None)),
        ("elapsed", _elapsed(state)),
    ]
    line = Text(" ")
    for label, value in pairs:
        piece = Text.assemble((f"{label} ", ink.muted), value, "   ")
        if line.cell_len + piece.cell_len + len(page) > width:
            break
        line += piece
    return Text.assemble(line, " " * (width - line.cell_len - len(page) - 1), (page, ink.muted))


def _core(core: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Its newest answer, named by how many of its tasks it is of where those are not all."""
    if core is None:
        return []
    return [
        ("CORE" if core["core"] is not None else f"CORE's {core['tasks']}", fixed(core["mean_centred"], 4))
    ]


def _reading(label: str, value: str, ink: Palette) -> Text:
    return Text.assemble((label, ink.muted), value.rjust(READINGS_WIDTH - len(label)))


def _time_split(parts: dict[str, float] | None) -> list[tuple[str, str]]:
    """Two to a line, the shares of a step: reading rows and computing, waiting for other ranks and optimizing."""
    if not parts or not (total := sum(parts.values())):
        return []
    words = [f"{part} {100 * seconds / total:.0f}%" for part, seconds in parts.items()]
    return [(f"  {left}", right) for left, right in zip(words[::2], words[1::2], strict=True)]


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _elapsed(state: RunState) -> str:
    seconds = state.status.training_seconds
    return duration(max(1.0, seconds)) if seconds else UNKNOWN


def note_line(note: Note, ink: Palette) -> Text:
    """One line of the log of events."""
    return Text.assemble(
        (f"{clock(note.wall)}  ", ink.muted), (note.text, hue(ink, HUE_OF_LEVEL[note.level]))
    )


def sample_title(sample: Sample, ink: Palette) -> Text:
    """What is known about a sample, in one line."""
    words = [f"step {count(sample.step)}"] if sample.step is not None else []
    if sample.checkpoint:
        words.append(f"checkpoint {sample.checkpoint}")
    if sample.request_id is None:
        words.append("scheduled")
    elif not words:
        words.append("the model in training")
    if sample.temperature is not None:
        words.append("greedy" if sample.temperature == 0 else f"temperature {sample.temperature:g}")
    if sample.top_k is not None:
        words.append(f"top-k {sample.top_k}")
    if sample.tokens is not None:
        words.append(f"{sample.tokens} tokens")
    if sample.seconds is not None:
        words.append(_seconds(sample.seconds))
    return Text(" · ".join(words), ink.muted)


def sample_text(sample: Sample, ink: Palette) -> Text:
    """The prompt and what the model made of it."""
    text = Text.assemble((sample.prompt, hue(ink, SKY)), sample.text)
    if sample.error is not None:
        text.append(f" — {sample.error}", hue(ink, VERMILION))
    elif not sample.is_done:
        text.append("▌", hue(ink, SKY))
    return text
