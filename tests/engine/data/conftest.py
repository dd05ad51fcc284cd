"""Where texts of other people lie, for tests that want them and skip without."""

import os
from pathlib import Path

import pytest

TEST_DATA = Path(
    os.environ.get("LLMCTL_TEST_DATA") or Path(__file__).resolve().parents[3].parent / "shared" / "data"
)
needs_test_data = pytest.mark.skipif(
    not (TEST_DATA / "fixtures").is_dir(), reason=f"no texts at {TEST_DATA}; set LLMCTL_TEST_DATA"
)
needs_tables = pytest.mark.skipif(
    not (TEST_DATA / "tiktoken_cache").is_dir(),
    reason=f"no tiktoken tables at {TEST_DATA}; set LLMCTL_TEST_DATA",
)
