"""Records of WebDataset tar shards and Parquet files, read in order.

A record is an image (or several) with what is said about it: ``key.jpg`` and ``key.json`` in a tar, a row with an
``image`` and a ``conversations`` or ``caption`` column in Parquet. Tar needs only Python, Parquet needs pyarrow.

Shards come from outside. Nothing in them is unpickled or extracted to disk, only regular members are read, and the
sizes of headers and members are limited before memory is taken for them.
"""

from __future__ import annotations

import bz2
import errno
import glob
import gzip
import importlib.util
import io
import json
import lzma
import os
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from common.errors import UserError
from dataset.conversations import checked
from dataset.converters.ali import captions_or_messages
from dataset.converters.arrow_reader import PYARROW
from dataset.preparing.turns import Talk, talk_of
from dataset.records import KINDS, SURROGATE, RecordError
from settings import SHARDS

IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "avif", "tga"}
TEXTS = {"json", "txt"}
PICKLES = {"pickle", "pkl", "pyd", "pth", "pt"}  # reading one may run code
COLUMNS = set("image images conversations messages caption turns system split".split())  # of a Parquet file
LARGEST_MEMBER = 256 * 2**20  # bytes; the largest photo that data.max_pixels lets through has some tens of millions
BLOCK = 2**20  # bytes that are read at once; no header of a tar is longer
ROWS = 64  # of a Parquet file that become Python objects at once

Row = dict[str, Any]  # a record: {extension: content, "__key__": key} of a tar, {column: value} of a Parquet file

_KEY_AND_FIELD = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # WebDataset's rule: the key ends at the name's first dot


# ---------------------------------------------------------------------------------------------- files


def find_shards(patterns: list[Path] | None, key: str) -> list[Path]:
    """The files that ``patterns`` name, each once, in order; ``key`` is the setting, for messages.

    Raises:
        UserError: no patterns, a pattern that no file matches, a file of another kind, or Parquet without pyarrow.
    """
    if patterns is None:
        raise UserError(f"{key}: expected {SHARDS}")
    found: dict[str, Path] = {}
    for pattern in patterns:
        text = os.fspath(pattern)
        files = [text] if os.path.isfile(text) else sorted(glob.glob(text, recursive=True))
        if not files:
            raise UserError(f'{key} = "{text}": no such file; expected shards, such as data/shards/*.tar')
        for file in files:
            if not file.endswith((".tar", ".parquet")) or not os.path.isfile(file):
                raise UserError(f"{key}: {file} is not a shard; expected files that end in .tar or .parquet")
            if file.endswith(".parquet") and importlib.util.find_spec("pyarrow") is None:
                raise UserError(f"{key}: {file} is Parquet, which is read with pyarrow; pip install {PYARROW}")
            found.setdefault(os.path.realpath(file), Path(file))
    return list(found.values())


def read_shard(path: Path, skip: int = 0) -> Iterator[Row]:
    """The records of a shard after the first ``skip``, nothing in them decoded.

    Raises:
        Exception: of nearly any class, at the first damage; the records before it have been given.
    """
    yield from read_parquet(path, skip) if path.suffix == ".parquet" else read_tar(path, skip)


# ---------------------------------------------------------------------------------------------- tar


def read_tar(path: Path, skip: int = 0) -> Iterator[Row]:
    """The records of a tar: consecutive members with one key.

    Of a pickle, and of a member that is too large or sparse, only the name is there, with None as its content.
    """
    record: Row = {}
    number = 0  # of the record whose members come next
    key = None
    for name, tar, member in _members(path):
        match = _KEY_AND_FIELD.fullmatch(name)
        if match is None or (kind := kind_of(name)) not in IMAGES | TEXTS | PICKLES:
            continue
        if key is not None and match[1] != key:
            if record:
                yield record
            record, number = {}, number + 1
        key = match[1]
        if number < skip:
            continue
        if match[2] in record:
            raise ValueError(f"{name} is there twice")
        record.setdefault("__key__", key)
        record[match[2]] = None if kind in PICKLES else _content(tar, member)
    if record:
        yield record


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    """The regular members of a tar, hidden files left out.

    Raises:
        tarfile.ReadError: damage. TarFile takes a damaged header for the end of the archive; here it is an error.
    """
    with (
        open(path, "rb") as file,
        _Limited(_decompressed(file)) as limited,
        tarfile.open(fileobj=limited, mode="r:") as tar,
    ):
        end = -1
        while (member := tar.next()) is not None:
            if tar.offset <= end:  # a negative size: tarfile would read the same members for ever
                raise tarfile.ReadError(f"{member.name} has an impossible size")
            end = tar.offset
            tar.members = []  # type: ignore[attr-defined]  # otherwise every header stays in memory; typeshed lacks it
            if member.isreg() and not os.path.basename(member.name).startswith((".", "__")):
                yield member.name, tar, member
        limited.seek(tar.offset)
        last = limited.read(tarfile.BLOCKSIZE)
        if last.strip(b"\0") or len(last) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("a damaged header" if last else "the end of the archive is missing")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    # A sparse member of a small file may have any size.
    if member.issparse() or member.size > LARGEST_MEMBER:
        return None
    file = tar.extractfile(member)
    assert file is not None  # members are regular files
    content = b"".join(iter(lambda: file.read(BLOCK), b""))
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """The file itself, unless it begins as gzip, bzip2 or xz do."""
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # it reads, seeks and tells, as IO does
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if start.startswith(b"\xfd7zXZ") else file


class _Limited(io.RawIOBase):
    """A file that gives at most a block at once: tarfile reads a header whole, however long it claims to be."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= BLOCK:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self.file.seek(offset, whence)
        except (ValueError, OverflowError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise tarfile.ReadError(f"nothing can be at byte {offset:,}") from None

    def tell(self) -> int:
        return self.file.tell()


def kind_of(name: str) -> str:
    return name.rpartition(".")[2].lower()


# ---------------------------------------------------------------------------------------------- Parquet


def read_parquet(path: Path, skip: int = 0) -> Iterator[Row]:
    """The rows of a Parquet file, their useful columns as Python objects."""
    import pyarrow.parquet

    with open(path, "rb") as file, pyarrow.parquet.ParquetFile(file, pre_buffer=False) as parquet:
        columns = [name for name in parquet.schema_arrow.names if name in COLUMNS]
        if not columns:
            raise ValueError(f"it has none of the columns {', '.join(sorted(COLUMNS))}")
        groups = list(range(parquet.metadata.num_row_groups))
        while groups and skip >= parquet.metadata.row_group(groups[0]).num_rows:
            skip -= parquet.metadata.row_group(groups.pop(0)).num_rows
        # In this thread alone: a process that forks for its DataLoader's workers must not have threads of Arrow.
        for batch in parquet.iter_batches(ROWS, row_groups=groups, columns=columns, use_threads=False):
            yield from batch.slice(skip).to_pylist()
            skip = max(0, skip - batch.num_rows)


# ---------------------------------------------------------------------------------------------- records


def contents(row: Row) -> tuple[list[bytes], object]:
    """The images of a record, as files, and what is said about them.

    Raises:
        RecordError: one of them cannot be used.
    """
    images, said = _contents_of_member(row) if "__key__" in row else _contents_of_row(row)
    if not all(isinstance(image, bytes) and 0 < len(image) <= LARGEST_MEMBER for image in images):
        raise RecordError(f"an image is not in the shard, or empty, sparse, or larger than {LARGEST_MEMBER:,} bytes")
    return images, said


def _contents_of_member(row: Row) -> tuple[list[Any], object]:
    if pickles := [name for name in row if kind_of(name) in PICKLES]:
        raise RecordError(f"holds a pickle (.{pickles[0]}), which could run code and is not read")
    images = [content for name, content in row.items() if kind_of(name) in IMAGES]
    text = row.get("json", row.get("txt", b""))
    if text is None:
        raise RecordError(f"its text is sparse or larger than {LARGEST_MEMBER:,} bytes")
    return images, _parsed(text) if "json" in row else {"caption": text.decode("utf-8", "replace")}


def _contents_of_row(row: Row) -> tuple[list[Any], object]:
    given = row.get("images") if row.get("images") is not None else [row.get("image")]
    given = [image for image in given if image is not None] if isinstance(given, list) else [given]
    images = [image.get("bytes") if isinstance(image, dict) else image for image in given]
    said = {key: value for key, value in row.items() if value is not None}
    if isinstance(said.get("conversations"), str) and said["conversations"].lstrip().startswith("["):
        said["conversations"] = _parsed(said["conversations"])  # a list kept as text
    return images, said


def _parsed(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not valid JSON: {' '.join(str(error).split())[:100]}") from None


def parts_of(said: object) -> list[object]:
    """The conversations of a record: it may be one, or a list of them, or hold the list under ``conversations``."""
    if isinstance(said, dict) and "turns" not in said:
        inner = said.get("conversations")
        if isinstance(inner, list) and any(isinstance(part, dict) and "turns" in part for part in inner):
            return inner
    if isinstance(said, list) and any(isinstance(part, dict) and {"from", "role"} & part.keys() for part in said):
        return [{"conversations": said}]  # LLaVA's messages without the object around them
    return said if isinstance(said, list) else [said]


def talk_in(part: object, images: int, seed: str, keep_all_captions: bool) -> Talk:
    """The turns of a conversation in our own format, as process_image.py writes it, or in one that it reads.

    Raises:
        RecordError: it is in none of them.
    """
    if not isinstance(part, dict):
        raise RecordError(f"is not an object but {KINDS.get(type(part), type(part).__name__)}")
    if part.get("turns") is None:
        if isinstance(part.get("conversations"), list):
            part = {key: value for key, value in part.items() if key != "caption"}
        return talk_of(captions_or_messages(part, []), images, seed, keep_all_captions)
    try:
        given = checked({"turns": part["turns"], "system": part.get("system") or ""})
    except (LookupError, TypeError, AttributeError):
        raise RecordError('"turns" are not what process_image.py writes') from None
    whole = partial(SURROGATE.sub, "\ufffd")
    turns = [{"q": whole(turn["q"]), "a": [whole(answer) for answer in turn["a"]]} for turn in given["turns"]]
    return Talk(turns, images, whole(given["system"]))
