"""`tokenizer`: train one on a corpus, and see how well it compresses what."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.data import SourceArgument, progress_bar, spec_of_source
from cli.plan import PresetOption, SetOption, SpecOption
from cli.printing import number, out, out_json, pairs, say, table
from cli.references import JsonOption

if TYPE_CHECKING:
    from trainer_daemon.engine.data.tokenizer import Tokenizer

MEASURED_BYTES = 4_000_000
"""Of each corpus, text that compression is measured on."""
COMPARED = ("gpt2", "cl100k_base")

tokenizer = typer.Typer(
    name="tokenizer", help="Train a tokenizer, look at one.", no_args_is_help=True, rich_markup_mode=None
)


@tokenizer.command()
def train(
    source: SourceArgument = None,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Kept as $LLMCTL_HOME/tokenizers/NAME.json.")
    ] = "mine",
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", metavar="V", help="Ids, 256 bytes and 9 specials included.")
    ] = None,
    preset: PresetOption = None,
    spec: SpecOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Learn a tokenizer from a corpus's training text and keep it, for runs with tokenizer.name=NAME."""
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import check_name, home
    from trainer_daemon.contract.vocabulary import PUBLISHED
    from trainer_daemon.engine.data.prepare import train_tokenizer

    path = home() / "tokenizers" / f"{check_name(name)}.json"
    if path.exists() or name in PUBLISHED:
        raise RefusedError(f'a tokenizer "{name}" exists; choose another --name, or remove {path}')
    size = [] if vocab_size is None else [f"tokenizer.vocab_size={vocab_size}"]
    wanted = spec_of_source(source, "trained", preset, spec, [*size, *(set_ or [])])
    with progress_bar() as progress:
        trained = train_tokenizer(wanted.data, wanted.tokenizer, home(), progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    trained.save(path)
    if json:
        out_json(_facts(name, trained))
    else:
        out(str(path))
        say(f"{trained.vocab_size:,} ids; use it: llmctl run --set tokenizer.name={name}")


@tokenizer.command()
def inspect(
    which: Annotated[
        str,
        typer.Argument(metavar="TOKENIZER", help="gpt2, cl100k_base, …, or one of your own by name or path."),
    ],
    corpora: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...", help="Texts to measure compression on; else generated stories."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a tokenizer, and its bytes a token on texts beside those of gpt2 and cl100k_base."""
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.contract.spec import TokenizerSpec
    from trainer_daemon.engine.data.published import open_tokenizer

    opened: dict[str, Tokenizer] = {}
    for name in dict.fromkeys((which, *COMPARED)):
        try:
            found = open_tokenizer(TokenizerSpec(name=name), home())
        except SpecError as e:
            if name == which:
                raise
            say(f"note: {name} is left out: {e}")
            continue
        if found is None:
            raise SpecError("tokenizer.name: trained means the one a run learns; name one that exists")
        opened[name] = found
    measured = {source: _bytes_per_token(source, opened) for source in corpora or ["stories"]}
    facts = _facts(which, opened[which])
    if json:
        out_json({**facts, "bytes_per_token": measured})
        return
    out(pairs([(key.replace("_", " "), str(value)) for key, value in facts.items()]))
    out()
    rows = [
        (Path(source).name, *(number(values[name], 3) for name in opened))
        for source, values in measured.items()
    ]
    out(table(("bytes a token", *opened), rows))


def _bytes_per_token(source: str, tokenizers: "dict[str, Tokenizer]") -> dict[str, float]:
    """Of each tokenizer on the first MEASURED_BYTES of a corpus. Raises SpecError for what holds no text."""
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.engine.data.sources import open_corpus

    wanted = spec_of_source(source, None, None, None, None)
    corpus = open_corpus(wanted.data, wanted.tokenizer, home())
    texts: list[str] = []
    total = 0
    for document in islice(corpus.documents(), MEASURED_BYTES):
        texts.append(str(document.content))
        total += len(texts[-1].encode())
        if total >= MEASURED_BYTES:
            break
    if total == 0:
        raise SpecError(f"data.source: {source} holds no text to measure on")
    return {name: total / sum(len(t.encode_array(text)) for text in texts) for name, t in tokenizers.items()}


def _facts(name: str, tokenizer: "Tokenizer") -> dict[str, Any]:
    lengths = [len(token) for token in tokenizer.tokens if token]
    return {
        "name": name,
        "vocab_size": tokenizer.vocab_size,
        "special": ", ".join(f"{n} {i}" for n, i in sorted(tokenizer.special.items(), key=lambda x: x[1])),
        "content_hash": tokenizer.content_hash,
        "longest_token_bytes": max(lengths),
        "mean_token_bytes": round(sum(lengths) / len(lengths), 2),
    }
