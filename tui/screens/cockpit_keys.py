"""Which keys the cockpit has, as Textual binds them, as its bottom line hints at them and as help and docs list them."""

from collections.abc import Mapping, Sequence

from rich.text import Text
from textual.binding import Binding, BindingType

from trainer_daemon.contract.events import RESUMABLE_STATES
from tui.chart.palette import Palette
from tui.ink import ORANGE, SKY, hue
from tui.key_names import Hint, fitted_hints, hint_line
from tui.panes.pane import Pane
from tui.panes.views import PANES
from tui.screens.help import Section

PANE_TOOLTIPS = (
    "Curves and figures",
    "What the model writes",
    "What is saved, and how good it is",
    "What happened, and what the processes printed",
    "All runs on this machine",
    "Ranks and devices: where a step's time goes, and who is slow",
    "The spec: what differs from its preset or another run",
    "What went wrong, its likely cause, and what to do",
)


ALWAYS: Sequence[Hint] = (("app.help", "help"), ("app.detach", "detach"))
NARROW = 100
"""Columns below which the other views are only numbered."""
LEAST_NUMBERED = 60
"""Columns below which the other views are left out, and help has them."""
COCKPIT_BINDINGS: list[BindingType] = [
    *(
        Binding(str(number), f"show_pane('{name}')", name, id=f"pane.{name}", tooltip=tooltip)
        for number, (name, tooltip) in enumerate(zip(PANES, PANE_TOOLTIPS, strict=True), 1)
    ),
    Binding("slash,i", "talk", "ask", id="run.ask", tooltip="Give the model a beginning to continue"),
    Binding(
        "T",
        "compare_answers",
        "compare answers",
        id="run.talk",
        tooltip="Talk to stored checkpoints, two side by side, each token shaded by its probability",
    ),
    Binding("P", "pause_or_resume", "pause", id="run.pause", tooltip="Pause the training, or let it go on"),
    Binding("C", "command('save')", "save", id="run.save", tooltip="Save a checkpoint at the next step"),
    Binding(
        "E", "command('evaluate')", "eval", id="run.evaluate", tooltip="Measure val_bpb at the next step"
    ),
    Binding(
        "colon",
        "set",
        "Set",
        id="run.set",
        tooltip="Change a value from the next step on, typed as KEY=VALUE",
        show=False,
    ),
    Binding("exclamation_mark", "stop", "stop", id="run.stop", tooltip="Save, then end the run; asks first"),
    Binding(
        "ctrl+k",
        "kill",
        "Kill",
        id="run.kill",
        tooltip="End every process at once, without saving; asks for the run's name",
        show=False,
    ),
    Binding(
        "t",
        "next_target",
        "target",
        id="run.target",
        tooltip="Who answers: the live model or a checkpoint",
    ),
    Binding(
        "left_square_bracket",
        "turn(-1)",
        "Page back",
        id="pane.back",
        tooltip="Previous charts or log",
        show=False,
    ),
    Binding(
        "right_square_bracket",
        "turn(1)",
        "Page on",
        id="pane.on",
        tooltip="Next charts or log",
        show=False,
    ),
    Binding(
        "Y",
        "copy",
        "Copy",
        id="app.copy",
        tooltip="What is selected, else figures, sample or command, to your terminal's clipboard (OSC 52)",
        show=False,
    ),
    Binding(
        "semicolon",
        "jump",
        "Jump",
        id="app.jump",
        tooltip="A letter on everything that can have the keys",
        show=False,
    ),
    Binding(
        "D",
        "meter",
        "Meter",
        id="app.meter",
        tooltip="Bytes, frames and processor time of this cockpit",
        show=False,
    ),
    Binding(
        "ctrl+d",
        "differ",
        "Differ",
        id="app.differ",
        tooltip="Send changed cells only, or what Textual sends",
        show=False,
    ),
    Binding(
        "n", "new_run", "new run", id="run.new", tooltip="Fill in a run, see what it takes, and start it"
    ),
    Binding("question_mark", "help", "help", id="app.help", tooltip="All keys"),
    Binding("escape", "go_back", "Back", id="pane.escape", tooltip="Out of what was entered", show=False),
]


def key_sections() -> list[Section]:
    """All that has keys, as the help and docs/COCKPIT.md list it."""
    from tui.app import Cockpit  # which loads all of these behind its first frame
    from tui.chart.widget import Chart
    from tui.panes.alerts import AlertsPane
    from tui.panes.charts import ChartGrid
    from tui.panes.checkpoints import CheckpointsPane
    from tui.panes.log import LogPane
    from tui.panes.runs import RunsPane
    from tui.panes.spec import SpecPane
    from tui.screens.choose import Choose
    from tui.screens.cockpit import CockpitScreen
    from tui.screens.confirm import Confirm
    from tui.screens.help import Help
    from tui.screens.new_run import FieldInput, FormTable, NewRun
    from tui.screens.spec_diff import SpecDiff
    from tui.screens.talk import TalkScreen, TokenText
    from tui.screens.type_in import TypeIn
    from tui.widgets.prompt import PromptInput
    from tui.widgets.search import SearchInput
    from tui.widgets.table import Table
    from tui.widgets.transcript import Transcript

    return [
        ("Everywhere", (Cockpit, CockpitScreen)),
        ("On a chart", (ChartGrid, Chart)),
        ("On a checkpoint", (CheckpointsPane,)),
        ("On an alert", (AlertsPane,)),
        ("In the log", (LogPane,)),
        ("In the list of runs", (RunsPane,)),
        ("In the spec", (SpecPane,)),
        ("In a table", (Table,)),
        ("Where specs differ", (SpecDiff,)),
        ("In the form of a new run", (NewRun, FormTable, FieldInput)),
        ("In the line that picks or searches", (SearchInput,)),
        ("In a text", (Transcript,)),
        ("In the prompt line", (PromptInput,)),
        ("In a question, a list or the help", (Confirm, TypeIn, Choose, Help)),
        ("On the screen of talks", (TalkScreen, TokenText)),
    ]


def keys_line(
    *,
    width: int,
    current: Pane,
    unseen_alerts: int,
    state: str,
    is_read_only: bool,
    names: Mapping[str, str],
    ink: Palette,
) -> Text:
    """The views, the one in sight lit; then as many keys as fit, help and the way out before all others.

    Where there is little room, or too little for the keys that the view has of its own, other views are only numbered; where
    there is hardly any they are left out. `width`: columns; `state`: of the run; `names`: each key as this reader has it, by
    its binding's id.
    """
    gap = " " if width < NARROW else "  "
    hints = list(current.hints) or _hints_of_run(state, is_read_only)

    def views(*, are_named: bool) -> Text:
        line = Text(" ")
        for name in PANES:
            unseen = unseen_alerts if name == "alerts" else 0
            if name == current.id or unseen or are_named:
                line.append(f"{names[f'pane.{name}']} ", hue(ink, SKY))
                line.append(name, ink.title if name == current.id else ink.muted)
                line.append(f" {unseen}" if unseen else "", hue(ink, ORANGE)).append(gap)
            elif width >= LEAST_NUMBERED:
                line.append(f"{names[f'pane.{name}']} ", hue(ink, SKY))
        return line

    def keys(left: Text) -> Text:
        return fitted_hints(hints, ALWAYS, width - left.cell_len - 1, names, ink, gap)

    left = views(are_named=width >= NARROW)
    if current.hints and keys(left).cell_len < hint_line([*hints, *ALWAYS], names, ink, gap).cell_len:
        left = views(are_named=False)
    right = keys(left)
    if left.cell_len + right.cell_len > width:
        left = Text(" ")
    left.append(" " * max(1, width - left.cell_len - right.cell_len - 1))
    return left + right


def _hints_of_run(state: str, is_read_only: bool) -> list[Hint]:
    """What one would do next with a run in this state."""
    ask = [("run.ask", "ask")]
    if is_read_only:
        return ask
    if state in RESUMABLE_STATES:
        return [*ask, ("run.pause", "resume"), ("run.talk", "compare answers"), ("run.new", "new run")]
    if state == "completed":
        return [*ask, ("run.talk", "compare answers"), ("run.new", "new run")]
    pause = "resume" if state == "paused" else "pause"
    return [*ask, ("run.pause", pause), ("run.stop", "stop"), ("run.save", "save"), ("run.evaluate", "eval")]
