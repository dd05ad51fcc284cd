"""Parquet, one document a row of one text column: nanochat's shards and any others."""

from collections.abc import Iterator
from pathlib import Path

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.sources.jsonl import no_such_field

ROWS_AT_A_TIME = 1024


def read_parquet(file: Path, column: str) -> Iterator[tuple[str, int]]:
    """(text, bytes of the file read so far, by the share of rows); a text may be empty. Raises SpecError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise SpecError(
            "data.source: reading .parquet needs pyarrow, which is not installed here: pip install pyarrow"
        ) from e
    done = 0
    with file.open("rb"):
        pass  # where that fails, the system says why in fewer words than pyarrow
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            if column not in schema.names:
                raise SpecError(no_such_field(str(file), "column", column, schema.names))
            kind = schema.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise SpecError(f'data.text_field: column "{column}" of {file} holds {kind}, not text')
            size, rows = file.stat().st_size, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=ROWS_AT_A_TIME, columns=[column]):
                for text in batch.column(0).to_pylist():
                    done += 1
                    yield text or "", size * done // rows
    except (pa.ArrowException, UnicodeDecodeError) as e:
        where = f" behind row {done:,}" if done else ""
        raise SpecError(f"data.source: {file} is not a readable .parquet file{where}: {e}") from e
