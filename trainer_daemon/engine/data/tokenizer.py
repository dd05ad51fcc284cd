"""Byte-level BPE: any text in, ids out, and the same text back, with nothing unknown and no download.

rustbpe learns the merges, tiktoken applies them; both are imported when first needed, so a machine that only reads
token shards needs neither. A tokenizer is stored as JSON and named by the SHA-256 of that JSON, never as a pickle. The
special tokens of a trained one stand at the end of the vocabulary, and no text ever encodes to them.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import write_durably
from trainer_daemon.contract.vocabulary import BOS, CHAT_TOKENS, END_OF_TEXT, separator_of

if TYPE_CHECKING:
    import tiktoken

FORMAT = "llmctl-bpe"
VERSION = 1

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""Merges never cross these pieces. GPT-4's pattern, but numbers go in groups of two digits at most: three cost a small
vocabulary a thousand ids."""

SPECIAL_TOKENS = (
    BOS,
    *CHAT_TOKENS,
    *(f"<|{who}_{end}|>" for who in ("python", "output") for end in ("start", "end")),
)
"""In id order. Those of a conversation are there from the start, because a vocabulary cannot grow after pretraining."""

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

LONGEST_BLANK = 100_000
"""Characters of whitespace in a row. At a million the regex engine of rustbpe and tiktoken gives up with a panic, so a
longer run is encoded in pieces of this size."""

_TOO_BLANK = re.compile(rf"\s{{{LONGEST_BLANK}}}(?=\s)")

TokenIds = npt.NDArray[np.uint32]


class Tokenizer:
    """A vocabulary and its ids: the tokens learned, and the special ones behind them or, in p50k_base, in a gap."""

    def __init__(self, tokens: Sequence[bytes], special: dict[str, int], pattern: str) -> None:
        self.tokens = list(tokens)
        """Raw bytes of each ordinary token, in id order, which is also the order of the merges; b"" in a gap."""
        self.special = dict(special)
        self.pattern = pattern
        self.bos_id = separator_of(self.special)
        """The special that opens every document: <|bos|>, or <|endoftext|> in published vocabularies."""
        self.vocab_size = max(len(self.tokens), *(i + 1 for i in self.special.values()))
        self._encoding: tiktoken.Encoding | None = None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn from all of `texts`. A small corpus runs out of merges: read the result's own `vocab_size`.

        Raises SpecError for a vocabulary under 256 bytes and the specials, and where rustbpe is missing.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise SpecError(
                f"tokenizer.vocab_size: {vocab_size} is too small; it holds 256 bytes and "
                f"{len(SPECIAL_TOKENS)} special tokens, so use at least {MIN_VOCAB_SIZE}"
            )
        trainer = _import("rustbpe").Tokenizer()
        pieces = (piece for text in texts for piece in _encodable(text))
        trainer.train_from_iterator(pieces, vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
        tokens = [
            bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda rank: rank[1])
        ]
        special = {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
        return cls(tokens, special, SPLIT_PATTERN)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Raises SpecError when the file is missing or is not a whole tokenizer."""
        try:
            stored = json.loads(path.read_bytes())
            if (stored["format"], stored["version"]) != (FORMAT, VERSION):
                _refuse(path, f"it is {stored['format']} version {stored['version']}")
            tokens = [base64.b64decode(token, validate=True) for token in stored["tokens"]]
            special = {str(name): int(token_id) for name, token_id in stored["special"].items()}
            pattern = str(stored["pattern"])
        except OSError as e:
            raise SpecError(f"cannot read the tokenizer {path}: {e.strerror}") from e
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise SpecError(f"{path} is not a tokenizer of this version: {e!r}") from e
        used = [token for token in tokens if token]
        if len(set(used)) != len(used) or not {bytes([b]) for b in range(256)} <= set(used):
            _refuse(path, "its tokens repeat or do not hold all 256 bytes")
        taken = {i for i, token in enumerate(tokens) if token}
        if not {BOS, END_OF_TEXT} & set(special) or taken & set(special.values()):
            _refuse(path, f"its special tokens lack {BOS} or have ids of others")
        return cls(tokens, special, pattern)

    def save(self, path: Path) -> None:
        """Write the canonical JSON: the file's own SHA-256 is `content_hash`."""
        write_durably(path, self.to_json().encode())

    @property
    def content_hash(self) -> str:
        """SHA-256 of the canonical JSON: equal exactly when the same text gives the same ids."""
        return sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The canonical JSON, which `load` reads."""
        stored = {
            "format": FORMAT,
            "version": VERSION,
            "pattern": self.pattern,
            "tokens": [base64.b64encode(token).decode() for token in self.tokens],
            "special": self.special,
        }
        return json.dumps(stored, sort_keys=True, separators=(",", ":")) + "\n"

    def encode(self, text: str) -> list[int]:
        """The ids of the text, which never hold a special one. Raises SpecError where tiktoken is missing."""
        return [int(token_id) for token_id in self._encode(self._tiktoken(), text)]

    def encode_array(self, text: str) -> TokenIds:
        """`encode` as an array: without a Python integer for every id, and without the interpreter while it works."""
        return self._encode(self._tiktoken(), text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Specials say nothing; bytes that are no UTF-8, such as a cut letter, become U+FFFD.

        Raises IndexError for an id that the vocabulary does not have.
        """
        return b"".join(map(self.decode_bytes, ids)).decode("utf-8", "replace")

    def decode_bytes(self, token_id: int) -> bytes:
        """The raw bytes of one id, b"" for a special or unused one. Raises IndexError for an id that the vocabulary does not have."""
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self.tokens[token_id] if token_id < len(self.tokens) else b""

    def token_byte_lengths(self) -> npt.NDArray[np.int32]:
        """(V,): the number of raw bytes of each id, 0 for specials and unused ones. What val_bpb divides by."""
        lengths = np.zeros(self.vocab_size, np.int32)
        lengths[: len(self.tokens)] = [len(token) for token in self.tokens]
        return lengths

    def _tiktoken(self) -> "tiktoken.Encoding":
        if self._encoding is None:
            ranks = {token: i for i, token in enumerate(self.tokens) if token}
            self._encoding = _import("tiktoken").Encoding(
                FORMAT, pat_str=self.pattern, mergeable_ranks=ranks, special_tokens=self.special
            )
        return self._encoding

    @staticmethod
    def _encode(encoding: "tiktoken.Encoding", text: str) -> TokenIds:
        # disallowed_special=() makes it `encode_ordinary`, without a Python integer for every id
        parts = [encoding.encode_to_numpy(piece, disallowed_special=()) for piece in _encodable(text)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def without_lone_surrogates(text: str) -> str:
    """The text, with U+FFFD for each half of a surrogate pair: JSON can carry those, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _encodable(text: str) -> Iterator[str]:
    """The text in pieces that both engines can take; nearly always the one piece."""
    text = without_lone_surrogates(text)
    start = 0
    if len(text) > LONGEST_BLANK:
        for run in _TOO_BLANK.finditer(text):
            yield text[start : run.end()]
            start = run.end()
    yield text[start:]


def _refuse(path: Path, why: str) -> NoReturn:
    raise SpecError(f"{path} is not a tokenizer of this version: {why}")


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as e:
        raise SpecError(
            f"preparing text needs {name}, which is not installed here: pip install {name}, or prepare the text on "
            f"a machine that has it"
        ) from e
