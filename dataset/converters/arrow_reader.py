"""Rows of Parquet files and of folders that Hugging Face ``datasets`` saved, read in blocks with pyarrow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.converters.base import SPLITS

PYARROW = "pyarrow==26.0.1"  # as in requirements-dev.txt
ROWS = 64  # that become Python objects at once: with pictures in them, some tens of megabytes

Row = dict[str, Any]


def columns_of(path: Path) -> list[str]:
    """The columns of the first file.

    Raises:
        UserError: no pyarrow, no such file in a folder, or damage.
    """
    schema = next(_batches(arrow_files(path)[0], None, schema_only=True))
    return list(schema)


def arrow_files(path: Path) -> list[Path]:
    """A file itself, or the Parquet and Arrow files in a folder, in order.

    Raises:
        UserError: the folder has none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in (".parquet", ".arrow") and file.is_file())
    files = [file for file in files if not file.name.startswith((".", "cache-"))]  # datasets leaves caches of old calls
    if not files:
        raise UserError(f"{path}: a folder without .parquet or .arrow files; name a file of annotations")
    return files


def read_rows(path: Path, columns: set[str]) -> Iterator[Row]:
    """The rows of a file, or of all files in a folder, with those of ``columns`` that they have.

    A row of a file that is named after its split, as the hub and ``datasets`` do it, has that under "split".

    Raises:
        UserError: no pyarrow, or damage.
    """
    for file in arrow_files(path):
        split = split_in(file.relative_to(path)) if path.is_dir() else split_in(Path(file.name))
        for batch in _batches(file, columns):
            for row in batch:
                yield {"split": split, **row} if split else row


def split_in(path: Path) -> str | None:
    """The split that a file or its folder is named after: train-00000-of-00008.parquet, validation/data-....arrow."""
    words = [re.split(r"[^a-z]", part.lower())[0] for part in path.parts]
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), None)


def _batches(file: Path, columns: set[str] | None, schema_only: bool = False) -> Iterator[Any]:
    """Lists of at most ROWS rows; with ``schema_only`` the names of the columns, once."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: is read with pyarrow; pip install {PYARROW}") from None
    try:
        with open(file, "rb") as opened:
            if file.suffix == ".parquet":
                reader = pyarrow.parquet.ParquetFile(opened, pre_buffer=False)
                names = reader.schema_arrow.names
            else:
                reader = pyarrow.ipc.open_stream(opened)
                names = reader.schema.names
            if schema_only:
                yield names
                return
            kept = [name for name in names if columns is None or name in columns]
            # In this thread alone: a process that forks for its workers must not have threads of Arrow.
            parquet = file.suffix == ".parquet"
            for batch in reader.iter_batches(ROWS, columns=kept, use_threads=False) if parquet else reader:
                for start in range(0, batch.num_rows, ROWS):
                    yield batch.select(kept).slice(start, ROWS).to_pylist()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (pyarrow.ArrowException, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged, or not written by pyarrow ({' '.join(str(error).split())[:150]})") from None
