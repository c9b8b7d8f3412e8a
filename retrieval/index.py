"""An index of pictures: one vector for each, in files that are only appended to.

    index.json        the towers that made the vectors, their SHA-256, and the width of a vector
    vectors.f32       float32 rows of length 1, read through memory mapping
    pictures.jsonl    a line for each row: path, size, modification time; or {"gone": path}

A row is written before its line, so after a crash the rows without a line are cut off and made again. A changed picture
gets a new row, and its old one counts no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import write_json

CHUNK = 65_536  # rows of one matrix product: 200 MB at 768 numbers a row
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".tga"}
INFO, VECTORS, PICTURES = "index.json", "vectors.f32", "pictures.jsonl"


class Index:
    """The index in ``folder``. ``paths`` are those of its rows; None for a row that counts no more."""

    def __init__(self, folder: Path, model: str, model_sha256: str, width: int) -> None:
        self.folder, self.model, self.model_sha256, self.width = folder, model, model_sha256, width
        self.paths: list[str | None] = []
        self.rows: dict[str, int] = {}  # path -> its row
        self.stamps: dict[str, list[int]] = {}  # path -> size in bytes and modification time in ns
        self._read()

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Raises UserError if there is none."""
        try:
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
            return cls(folder, info["model"], info["model_sha256"], info["width"])
        except FileNotFoundError:
            raise UserError(
                f"{folder}: no index; make one with: python -m retrieval index FOLDER --model MODEL"
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{folder}: the index cannot be read ({error}); delete it and index again") from error

    @classmethod
    def create(cls, folder: Path, model: str, model_sha256: str, width: int) -> Index:
        """A new index; the one that is there, if the same towers made it.

        Raises:
            UserError: other towers did, or it cannot be written.
        """
        if (folder / INFO).exists():
            index = cls.open(folder)
            if index.model_sha256 != model_sha256:
                raise UserError(f"{folder} was made by {index.model}, not by {model}; name another folder with --index")
            return index
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / INFO, {"model": model, "model_sha256": model_sha256, "width": width})
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
        return cls(folder, model, model_sha256, width)

    def _read(self) -> None:
        file, lines = self.folder / PICTURES, []
        if file.exists():
            content = file.read_bytes()
            complete = content.rfind(b"\n") + 1  # a crash may leave half a line
            if complete < len(content):
                os.truncate(file, complete)
            # As one list: a million lines one by one take twice as long.
            lines = json.loads(b"[" + b",".join(content[:complete].splitlines()) + b"]")
        for line in lines:
            self._note(line)
        vectors = self.folder / VECTORS
        size = vectors.stat().st_size if vectors.exists() else 0
        wanted = len(self.paths) * self.width * 4
        if size < wanted:
            raise ValueError(f"{VECTORS} lacks {wanted - size} bytes")
        if size > wanted:
            os.truncate(vectors, wanted)

    def _note(self, line: dict[str, Any]) -> None:
        path = line.get("gone") or line["path"]
        if path in self.rows:
            self.paths[self.rows.pop(path)] = None
        if "path" in line:
            self.rows[path], self.stamps[path] = len(self.paths), line["stamp"]
            self.paths.append(path)

    def missing(self, files: Sequence[Path]) -> list[Path]:
        """Those of ``files`` that have no row, or have changed since."""
        return [file for file in files if str(file) not in self.rows or self.stamps[str(file)] != stamp(file)]

    def add(self, files: Sequence[Path], vectors: np.ndarray) -> None:
        """Append ``vectors`` [n, width] float32 of n files."""
        self._append(VECTORS, np.ascontiguousarray(vectors, np.float32).tobytes())
        self._note_all([{"path": str(file), "stamp": stamp(file)} for file in files])

    def forget_missing(self, folder: Path) -> int:
        """Let the pictures under ``folder`` that are no longer there count no more; how many."""
        gone = [path for path in self.rows if Path(path).is_relative_to(folder) and not os.path.isfile(path)]
        self._note_all([{"gone": path} for path in gone])
        return len(gone)

    def _note_all(self, lines: list[dict[str, Any]]) -> None:
        self._append(PICTURES, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        for line in lines:
            self._note(line)

    def _append(self, name: str, content: bytes) -> None:
        with open(self.folder / name, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    @property
    def vectors(self) -> np.ndarray:
        """All rows [n, width], mapped into memory."""
        if not self.paths:
            return np.zeros((0, self.width), np.float32)
        return np.memmap(self.folder / VECTORS, np.float32, "r", shape=(len(self.paths), self.width))

    def search(
        self, query: np.ndarray, top: int, wanted: Callable[[str], bool] = lambda path: True
    ) -> list[tuple[str, float]]:
        """The ``top`` pictures by cosine with ``query`` [width] of length 1, the best first; only ``wanted`` paths."""
        usable = np.array([path is not None and wanted(path) for path in self.paths], bool)
        scores, rows = top_rows(self.vectors, query, top, usable)
        return [(str(self.paths[row]), float(score)) for score, row in zip(scores, rows, strict=True)]


def top_rows(vectors: np.ndarray, query: np.ndarray, top: int, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers of the ``top`` ``usable`` rows of ``vectors`` [n, D] for ``query`` [D]; exact, by chunks.

    Rows of equal score come in their order.
    """
    scores, rows = np.zeros(0, np.float32), np.zeros(0, np.int64)
    for start in range(0, len(vectors), CHUNK):
        chosen = np.flatnonzero(usable[start : start + CHUNK]) + start
        found = vectors[start : start + CHUNK] @ query  # [CHUNK]
        scores, rows = np.concatenate([scores, found[chosen - start]]), np.concatenate([rows, chosen])
        best = np.argsort(-scores, kind="stable")[:top]
        scores, rows = scores[best], rows[best]
    return scores, rows


def stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def pictures_under(folder: Path) -> list[Path]:
    """The files under a folder that look like pictures, as absolute paths, sorted.

    Raises:
        UserError: it is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    return sorted(file for file in walk(folder.resolve()) if file.suffix.lower() in SUFFIXES)


def walk(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        yield from (Path(here) / name for name in names if not name.startswith("."))
