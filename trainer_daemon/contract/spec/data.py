"""What is read, and what its text is cut into."""

from typing import Annotated, Literal

from pydantic import Field

from trainer_daemon.contract.spec.section import Section, Weight


class DataSpec(Section):
    """What is read, and which of it is held out."""

    source: Annotated[str, Field(min_length=1)] | Annotated[dict[str, Weight], Field(min_length=1)] = (
        "stories"
    )
    """`stories`: the generated corpus that needs no download; else a file, a folder or a glob of text (.txt, .jsonl,
    .jsonl.gz, .jsonl.zst, .parquet) or of ids (.bin, .h5), a set that `llmctl data prepare` wrote, or hf://OWNER/NAME. Paths
    are looked up in the working folder and then in $LLMCTL_HOME/data. A table of sources with weights, such as
    { web = 0.7, code = 0.3 }, mixes them by bytes of text and ends with the first that has no more; a prepared set among
    them is turned back into its text."""
    text_field: str = "text"
    """The field of a .jsonl line or the column of a .parquet file that holds the text."""
    held_out: str = Field(default="auto", min_length=1)
    """Validation set: `hundredth` (every hundredth document), `last_file` (the last in sorted order), or the file, folder
    or glob that holds it (of hf://, the split). auto: the files whose name says val, valid, validation or dev, else the last of several
    .parquet files (nanochat's layout), else the hundredths."""
    separator: Literal["before", "after", "none"] | None = None
    """Side of each document on which a file of ids has its separator; none: nothing divides them. Such a file does not say
    it, so it has to be given; text needs none."""
    separator_id: int | None = Field(default=None, ge=0, lt=1 << 32)
    """The separator in a file of ids; None: that of the tokenizer (50256 for gpt2)."""
    conversations: bool = False
    """The files of ids hold conversations in the tokenizer's <|user_start|>, <|user_end|>, <|assistant_start|> and
    <|assistant_end|>, as nanochat's chat models are trained on; `chat` and `serve` then speak to the model that way."""
    packing: Literal["bos-bestfit", "concat", "best-fit-padded"] = "bos-bestfit"
    """`bos-bestfit`: every row begins at a document's start, the rest of a cropped document is dropped.
    `concat`: documents run on from row to row, nothing is dropped. `best-fit-padded`: whole documents as far as they fit,
    nothing is dropped, and what is left of a row is empty; tokens of a batch count empty positions too."""
    document_mask: bool = False
    """Whether the documents of a row are kept apart: attention, and the share that a token takes of the one before, end at
    a document's beginning, in training and validation alike. Positions run on; only distances enter the model."""
    live: Literal["off", "keep", "window"] = "off"
    """Whether training begins before all text is tokenized. off: it does not, and rows are shuffled over the whole corpus.
    keep: it begins with the first shard, while the rest is tokenized beside it or by a `data prepare` that is under way;
    shards are read in the corpus's order, rows shuffled within each, and end up as a prepared set. window: the same for
    corpora too large to keep: only the shards about the reader exist, in the run's folder. Held out are then whole files
    or a split, or the hundredths of the first shard."""
    stories: int = Field(default=20_000, ge=200, le=100_000_000)
    """How many stories to generate (source `stories`)."""
    level: int = Field(default=1, ge=1, le=3)
    """Richness of the generated stories: 1 a small cast, 3 everything."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Seed of the story generator; the order of rows is seeded by the run's own seed."""


class TokenizerSpec(Section):
    """Byte-level BPE: learned from the run's own text at first use and shared by all runs that ask for the same, or given."""

    name: str = Field(default="trained", min_length=1)
    """`trained`: learned from the run's text; a published one (gpt2, r50k_base, p50k_base, cl100k_base, o200k_base); or one
    that `llmctl tokenizer train` stored, by its name or path."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Content hash that the tokenizer must have; None: whatever `name` means."""
    vocab_size: int = Field(default=32768, ge=265, le=1 << 20)
    """Ids asked for when it is trained, 256 bytes and 9 specials included; a small corpus may run out of merges and return
    fewer."""
    train_bytes: int = Field(default=2_000_000_000, ge=1000)
    """At most this much text is used to train the tokenizer."""
