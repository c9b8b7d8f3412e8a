"""Hashes of files and base models, and when a file is read for its hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import time

import pytest

from common import hash_cache, hashing
from common.errors import UserError
from common.hashing import hash_files, hash_model, hash_once, sha256


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that counts as large and as unchanged for an hour, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "SMALL", 3)
    path = tmp_path / "weights"
    write(path, b"abc")
    return path


def write(path, content: bytes, age: float = 3600.0) -> None:
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))


@pytest.fixture
def reads(monkeypatch):
    """The files that are read for their hash, in order."""
    seen: list = []
    original = hashing.sha256
    monkeypatch.setattr(hashing, "sha256", lambda path: seen.append(path) or original(path))
    return seen


def test_a_files_hash_is_that_of_its_content(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * 3_000_000)  # more than two of the blocks that it is read in
    assert sha256(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_several_files_are_hashed_by_name_and_content_in_their_order(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    write(first, b"1")
    write(second, b"2")
    lines = "".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in (first, second))
    assert hash_files([first, second]) == hashlib.sha256(lines.encode()).hexdigest()
    assert hash_files([second, first]) != hash_files([first, second])


def test_a_model_has_the_same_hash_in_another_folder_and_another_with_other_weights(qwen_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(qwen_folder, copy)
    assert hash_model(str(copy), "language.path") == hash_model(str(qwen_folder), "language.path")
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert hash_model(str(copy), "language.path") != hash_model(str(qwen_folder), "language.path")


def test_a_file_that_is_not_what_the_hub_noted_is_refused(qwen_folder, tmp_path):
    """``hf download --local-dir`` keeps each file's hash."""
    folder = tmp_path / "model"
    shutil.copytree(qwen_folder, folder)
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    noted = sha256(folder / "model.safetensors")
    (notes / "model.safetensors.metadata").write_text(f"commit\n{noted}\n1700000000.0\n")
    hash_model(str(folder), "language.path")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors has SHA-256 .* where the hub says"):
        hash_model(str(folder), "language.path")


# ---------------------------------------------------------------------------------------------- read once


def test_an_unchanged_file_is_read_once(file, reads):
    wanted = hashlib.sha256(b"abc").hexdigest()
    assert [hash_once(file, verify=False) for _ in range(3)] == [wanted] * 3
    assert reads == [file]


def test_verify_reads_the_file_and_finds_what_its_size_and_time_hide(file, reads):
    hash_once(file, verify=False)
    status = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_once(file, verify=False) == hashlib.sha256(b"abc").hexdigest()
    assert hash_once(file, verify=True) == hashlib.sha256(b"abd").hexdigest()
    assert hash_once(file, verify=False) == hashlib.sha256(b"abd").hexdigest()
    assert reads == [file, file]


def test_what_verify_reads_is_known_afterwards(file, reads):
    hash_once(file, verify=True)
    hash_once(file, verify=False)
    assert reads == [file]


@pytest.mark.parametrize("change", ["content", "size", "time", "another file of that name"])
def test_a_changed_file_is_read_again(file, reads, change):
    hash_once(file, verify=False)
    if change == "content":
        write(file, b"xyz", age=1800)
    elif change == "size":
        status = file.stat()
        file.write_bytes(b"abcd")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(file, (time.time() - 100, time.time() - 100))
    else:
        status, other = file.stat(), file.with_name("other")
        other.write_bytes(b"xyz")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(other, file)
    assert hash_once(file, verify=False) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert reads == [file, file]


def test_a_model_that_was_read_is_not_read_again(qwen_folder, tmp_path, monkeypatch, reads):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    shutil.copytree(qwen_folder, folder)
    weights = folder / "model.safetensors"
    monkeypatch.setattr(hash_cache, "SMALL", weights.stat().st_size)
    write(weights, weights.read_bytes())
    first = hash_model(str(folder), "language.path")
    assert hash_model(str(folder), "language.path", verify=False) == first
    assert [path.name for path in reads] == ["config.json", "model.safetensors", "config.json"]  # a small file: always
    assert hash_model(str(folder), "language.path") == first and len(reads) == 5
