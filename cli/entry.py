"""What the program `llmctl` calls first. `llmctl attach RUN` is opened from here, since Typer and the modules of thirty other
commands take as long to load as the cockpit takes to its first frame; all else, and whatever is said with an option, is the
command line's."""

import sys

from cli.printing import on_terminal, ready_streams

INTERRUPTED = 130


def app() -> int:
    """The program `llmctl`."""
    match sys.argv[1:]:
        case ["attach", run] if not run.startswith("-") and "://" not in run and on_terminal():
            return attach(run)
    from cli.main import app as command_line

    return command_line()


def attach(reference: str) -> int:
    """What `llmctl attach RUN` does on a terminal, and its exit code."""
    ready_streams()
    try:
        from trainer_daemon.contract.ahead import CourseAhead
        from trainer_daemon.contract.rundir import find_run

        run = find_run(reference)
        with CourseAhead(run.journal) as ahead:
            from tui.app import run_cockpit  # which takes longer than reading a history

            run_cockpit(run, ahead=ahead)
    except KeyboardInterrupt:  # before the cockpit has the terminal and takes it for a key
        return INTERRUPTED
    except Exception as e:  # noqa: BLE001  # as in cli.main: here too whatever went wrong becomes an exit code
        from cli.main import explain

        return explain(e)
    return 0
