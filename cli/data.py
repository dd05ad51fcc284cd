"""`data`: corpora to token shards, and a look at what is in them."""

import json as json_text
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.machine import nearest_existing
from cli.plan import PresetOption, SetOption, SpecOption, read_spec
from cli.printing import count, number, out, out_json, pairs, percent, say, size, table
from cli.references import JsonOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer_daemon.contract.spec import RunSpec
    from trainer_daemon.engine.data.shards import Split
    from trainer_daemon.engine.data.writing import Progress

HISTOGRAM_WIDTH = 40
SEQUENCE_LENGTHS = (256, 512, 1024, 2048)
SAMPLE_TOKENS = 60

data = typer.Typer(
    name="data",
    help="Corpora to token shards: fetch, prepare, list, inspect.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[SOURCE]", help="A file, folder or glob of text or ids; else the spec's data.source."
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option("--tokenizer", metavar="NAME", help="gpt2, cl100k_base, …, one of your own, or trained."),
]


def spec_of_source(
    source: str | None,
    tokenizer: str | None,
    preset: str | None,
    file: Path | None,
    overrides: list[str] | None,
) -> "RunSpec":
    """The spec whose data is meant, with every path absolute. Raises SpecError."""
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.engine.data.prepare import with_absolute_paths

    given = [("data.source", source), ("tokenizer.name", tokenizer)]
    said = [
        f"{key}={json_text.dumps(value)}" for key, value in given if value is not None
    ]  # a JSON string is TOML's
    return with_absolute_paths(read_spec(preset, file, [*said, *(overrides or [])], None), home())


@data.command()
def prepare(
    source: SourceArgument = None,
    tokenizer: TokenizerOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Keep it as $LLMCTL_HOME/data/NAME, for data.source=NAME."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Tokenize with N at once; else one a core."),
    ] = None,
    preset: PresetOption = None,
    spec: SpecOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Turn a corpus into token shards; a run with the same spec finds them ready. Goes on where it was interrupted."""
    from trainer_daemon.contract.rundir import check_name, home
    from trainer_daemon.engine.data.prepare import prepare as prepare_set
    from trainer_daemon.engine.data.shards import read_meta

    wanted = spec_of_source(source, tokenizer, preset, spec, set_)
    if name is not None:
        check_name(name)
    try:
        with progress_bar() as progress:
            prepared = prepare_set(
                wanted.data, wanted.tokenizer, home(), progress, workers=workers, name=name
            )
    except KeyboardInterrupt:
        say("interrupted; every whole shard is kept, and the same command goes on behind the last")
        raise
    facts = set_facts(prepared.folder, read_meta(prepared.folder))
    if json:
        out_json(facts)
        return
    out(str(prepared.folder))
    say(
        f"{count(facts['tokens'])} tokens in {facts['documents']:,} documents to train on, {count(facts['held_out_tokens'])} held out"
    )
    if name is not None:
        say(f"train on it: llmctl run --set data.source={name}")


@data.command()
def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The corpus to fetch; without it they are listed.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="6B", help="About so much of it; else all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch a public corpus from the Hugging Face hub into $LLMCTL_HOME/data; says its size and asks first."""
    from trainer_daemon.contract.errors import RefusedError, SpecError
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.engine.data import fetch as fetching

    if name is None:
        rows = [(key, corpus.repository, corpus.summary) for key, corpus in fetching.CORPORA.items()]
        out(table(("corpus", "from", "is"), rows, left=3))
        return
    corpus = fetching.find_corpus(name)
    wanted = None if tokens is None else parse_count(tokens)
    folder = home() / "data" / name
    files = fetching.choose_files(corpus, fetching.list_files(corpus), wanted)
    missing = [file for file in files if not fetching.is_there(file, folder)]
    needed, free = sum(file.size for file in missing), shutil.disk_usage(nearest_existing(folder)).free
    about = sum(file.size for file in files[1:]) * corpus.tokens_per_byte
    say(
        f"{name}: {len(files)} files, {size(sum(f.size for f in files))}, about {count(about)} tokens; {size(needed)} of it is "
        f"to be fetched into {folder} ({size(free)} free)"
    )
    if needed > free:
        raise RefusedError(
            f"{needed - free:,} bytes too few are free there; take less with --tokens, or set LLMCTL_HOME"
        )
    if missing and not yes:
        if not sys.stdin.isatty():
            raise SpecError("data fetch asks before it fetches, and there is nobody to ask; say --yes")
        typer.confirm("fetch it?", abort=True, err=True)
    fetching.fetch_files(
        corpus,
        files,
        folder,
        lambda file: say(f"{file.path}  {size(file.size)}"),
        say,
        bars=sys.stderr.isatty(),
    )
    if json:
        out_json({"corpus": name, "path": str(folder), "files": [file.path for file in files]})
    else:
        out(str(folder))


def parse_count(text: str) -> float:
    """`6B` -> 6e9; k, M, B and T are powers of a thousand. Raises SpecError."""
    from trainer_daemon.contract.errors import SpecError

    powers = {"k": 1, "m": 2, "b": 3, "t": 4}
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in powers else (text, "")
    try:
        value = float(digits) * 1000.0 ** powers.get(unit, 0)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise SpecError(f'--tokens takes a number such as 500M or 6B; got "{text}"')
    return value


@data.command(name="list")
def list_sets(json: JsonOption = False) -> None:
    """List the prepared sets, those with a name of their own first."""
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.engine.data.prepare import all_sets

    found = [set_facts(folder, meta) for folder, meta in all_sets(home())]
    if json:
        out_json(found)
        return
    if not found:
        say(f"nothing is prepared under {home()} yet; prepare a corpus: llmctl data prepare SOURCE")
        return
    rows = [
        (
            f["set"],
            Path(f["source"]).name,
            f["tokenizer_name"],
            f"{f['documents']:,}",
            count(f["tokens"]),
            count(f["held_out_tokens"]),
            size(f["bytes"]),
        )
        for f in found
    ]
    out(table(("set", "source", "tokenizer", "documents", "tokens", "held out", "size"), rows, left=3))


@data.command()
def inspect(
    which: Annotated[
        str,
        typer.Argument(metavar="SET", help="A prepared set: its name, a prefix of its key, or its folder."),
    ],
    sequence_len: Annotated[
        int | None,
        typer.Option("--sequence-len", metavar="T", min=2, help="Tell what rows of T tokens would cost."),
    ] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", metavar="N", min=0, help="Places to show.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Draws the places to show.")] = 0,
    json: JsonOption = False,
) -> None:
    """Show what is in a prepared set: counts, lengths, what packing costs, and some of it with its separators."""
    from dataclasses import asdict

    from trainer_daemon.contract.text import printable
    from trainer_daemon.engine.data import inspect as inspecting
    from trainer_daemon.engine.data.shards import open_set, read_meta

    folder = find_set(which)
    prepared, meta = open_set(folder), read_meta(folder)
    starts = prepared.train.document_starts()
    histogram = inspecting.length_histogram(starts)
    costs = [
        inspecting.packing_cost(starts, T) for T in ([sequence_len] if sequence_len else SEQUENCE_LENGTHS)
    ]
    shown = list(inspecting.sample_windows(prepared.train, prepared.tokenizer, samples, SAMPLE_TOKENS, seed))
    changed = inspecting.changed_sources(meta)
    if json:
        out_json(
            {
                **set_facts(folder, meta),
                "lengths": [asdict(b) for b in histogram],
                "packing": [asdict(c) for c in costs],
                "samples": shown,
                "changed_sources": changed,
            }
        )
        return
    out(pairs(_facts_table(set_facts(folder, meta), prepared.train, prepared.held_out)))
    out("\ntokens of a document, documents")
    out(draw_histogram([(f"{b.first:,}-{b.last:,}", b.documents) for b in histogram]))
    out()
    rows = [
        (str(c.sequence_len), percent(c.bestfit_dropped), percent(c.concat_cut), percent(c.padded_empty))
        for c in costs
    ]
    out(table(("row length", "bos-bestfit drops", "concat cuts", "best-fit-padded leaves empty"), rows))
    for text in shown:
        out(f"\n{printable(text)}")
    for path in changed:
        say(
            f"note: {path} is gone or is not as it was when this set was prepared; a run that names it prepares it anew"
        )


def find_set(which: str) -> Path:
    """The folder of a prepared set, by its path, its name, the beginning of it, or the source that `list` shows.

    Raises NotFoundError saying what there is.
    """
    from trainer_daemon.contract.errors import NotFoundError
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.engine.data.prepare import all_sets

    if (Path(which) / "meta.json").is_file():
        return Path(which)
    sets = {folder.name: (folder, str(meta["name"])) for folder, meta in reversed(all_sets(home()))}
    near: list[Path] = (
        [sets[which][0]]
        if which in sets
        else [folder for name, (folder, _) in sets.items() if which and name.startswith(which)]
        or [folder for folder, source in sets.values() if which and Path(source).name == Path(which).name]
    )
    if len(near) == 1:
        return near[0]
    known = (
        ", ".join(f"{name} ({Path(source).name})" for name, (_, source) in list(sets.items())[:8])
        or "none yet; prepare a corpus: llmctl data prepare SOURCE"
    )
    raise NotFoundError(
        f'"{which}" {"means several sets" if near else "is no prepared set"}; there are: {known}'
    )


def set_facts(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """What `data list --json` says of one set."""
    train, held_out = meta["splits"]["train"], meta["splits"]["held_out"]
    return {
        "set": folder.name,
        "path": str(folder),
        "source": meta["name"],
        "tokenizer_name": meta["tokenizer_name"],
        "tokenizer_hash": meta["tokenizer"],
        "vocab_size": meta["vocab_size"],
        "fingerprint": meta["fingerprint"],
        "separator": meta["separator"],
        "documents": train["documents"],
        "tokens": train["tokens"],
        "text_bytes": train["text_bytes"],
        "held_out_documents": held_out["documents"],
        "held_out_tokens": held_out["tokens"],
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }


def _facts_table(f: dict[str, Any], train: "Split", held_out: "Split") -> list[tuple[str, str]]:
    separator = f"{f['separator']['id']} {f['separator']['side']} each document"
    rows = [
        ("set", f["path"]),
        ("source", f["source"]),
        ("tokenizer", f"{f['tokenizer_name']}, {f['vocab_size']:,} ids, {f['tokenizer_hash'][:16]}"),
        ("separator", separator),
        ("fingerprint", f["fingerprint"]),
    ]
    for name, split in ("train", train), ("held out", held_out):
        meta = split.meta
        per_token = number(meta.text_bytes / max(1, meta.tokens - meta.documents), 2)
        rows.append(
            (
                name,
                f"{meta.documents:,} documents, {meta.tokens:,} tokens, {size(meta.text_bytes)} of text, {per_token} bytes a token",
            )
        )
    return rows


def draw_histogram(bars: list[tuple[str, int]]) -> str:
    """One line a bar, to scale, with its figure."""
    label_width, most = max(len(label) for label, _ in bars), max(n for _, n in bars)
    return "\n".join(
        f"{label.rjust(label_width)}  {'█' * round(HISTOGRAM_WIDTH * n / most) or '▏'} {n:,}"
        for label, n in bars
    )


@contextmanager
def progress_bar() -> "Iterator[Progress]":
    """A bar on a terminal, a line for each stage elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        told: set[str] = set()

        def tell(what: str, *_: object) -> None:
            if what not in told:
                told.add(what)
                say(what)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {}

        def draw(what: str, done: int, total: int | None, _unit: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield draw
