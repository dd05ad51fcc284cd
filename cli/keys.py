"""`keys`: who may watch and steer this user's runs over TCP, for runs that were started with --listen."""

from typing import Annotated

import typer

from cli.printing import command_name, out, out_json, say, table
from cli.references import JsonOption

keys = typer.Typer(
    name="keys",
    help="Keys for runs that listen on TCP: yours, and those that are let in.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")]


@keys.command()
def make() -> None:
    """Make this machine's keys, once; print the public one."""
    from trainer_daemon.link.keys import make_keys

    public = make_keys().public.hex()
    out(public)
    say(f"to be let in elsewhere, run there: {command_name()} keys allow NAME {public}")


@keys.command()
def allow(
    name: NameArgument, key: Annotated[str, typer.Argument(metavar="KEY", help="Their public key.")]
) -> None:
    """Let the owner of a public key watch and steer the runs that listen."""
    from trainer_daemon.link import keys as stored

    stored.allow(name, stored.key_from_hex(key))


@keys.command()
def revoke(name: NameArgument) -> None:
    """Let nobody in by that key any more; who is connected stays so until the run's supervisor ends."""
    from trainer_daemon.link import keys as stored

    stored.revoke(name)


@keys.command("list")
def list_(json: JsonOption = False) -> None:
    """List who is let in."""
    from trainer_daemon.link.keys import allowed_keys

    allowed = {name: key.hex() for name, key in allowed_keys().items()}
    if json:
        out_json(allowed)
    elif not allowed:
        say(f"nobody is let in; let someone in: {command_name()} keys allow NAME KEY")
    else:
        out(table(("NAME", "KEY"), list(allowed.items()), left=2))


ListenOption = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Be watched and steered over TCP, too, by those whose keys are let in (llmctl keys); uses PORT and the next.",
    ),
]


def tell_listening(listen: str) -> None:
    """How to get to a run that listens, for whoever started it."""
    from trainer_daemon.link.keys import own_keys

    say(f"from elsewhere: {command_name()} attach tcp://{own_keys().public.hex()}@{listen}")
