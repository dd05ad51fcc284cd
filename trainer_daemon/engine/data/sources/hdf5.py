"""HDF5 with one 1-D dataset `tokens`: documents run together, as pretraining scripts for the Pile write them.

Read from front to back in blocks, so every layout will do: of a compressed chunk each random window of 1,025 tokens would
decompress the whole, 0.4 s for gzip and 8 M tokens, and that is why tokens are copied into shards before training.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.sources.token_files import BLOCK_TOKENS, IntegerArray

DATASET = "tokens"


def read_hdf5(file: Path) -> Iterator[tuple[IntegerArray, int]]:
    """(ids, bytes of the file read so far, by the share of ids) of one block after the other. Raises SpecError."""
    with _opened(file) as tokens:
        size, total = file.stat().st_size, int(tokens.shape[0])
        chunk = tokens.chunks[0] if tokens.chunks else 1
        block = max(1, BLOCK_TOKENS // chunk) * chunk  # no chunk is decompressed twice
        for first in range(0, total, block):
            ids = tokens[first : first + block]
            yield ids, size * (first + len(ids)) // total


def count_hdf5(file: Path) -> int:
    """Ids in the file. Raises SpecError."""
    with _opened(file) as tokens:
        return int(tokens.shape[0])


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as e:
        raise SpecError(
            "data.source: reading .h5 needs h5py, which is not installed here: pip install h5py"
        ) from e
    try:
        with h5py.File(file, "r") as stored:
            yield _dataset(file, stored, h5py.Dataset)
    except (OSError, RuntimeError) as e:  # h5py's own, for a file that is none or is cut
        if isinstance(e, OSError) and e.errno:  # whose words are HDF5's, of several lines
            raise SpecError(f"data.source: cannot read {file}: {os.strerror(e.errno)}") from e
        raise SpecError(f"data.source: {file} is not a readable HDF5 file: {e}") from e


def _dataset(file: Path, stored: Any, dataset_type: type[Any]) -> Any:
    found: Any = stored.get(DATASET)
    if not isinstance(found, dataset_type):
        there = ", ".join(f'"{name}"' for name in list(stored)[:8]) or "nothing"
        raise SpecError(f'data.source: {file} has no dataset "{DATASET}"; it has {there}')
    if len(found.shape) != 1 or found.dtype.kind not in "iu":
        raise SpecError(
            f'data.source: "{DATASET}" of {file} is {found.dtype} of shape {found.shape}; what is read is one row of ids'
        )
    return found
