"""The result files, written together or not at all."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from common.files import write_together


def write_results(contents: dict[Path, object]) -> None:
    """Write JSON files that belong together (:func:`common.files.write_together`).

    Raises:
        UserError: a file cannot be written. The old ones are as they were, unless the disk failed while renaming.
    """
    try:
        write_together(contents)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written: {error.strerror or error}") from None
