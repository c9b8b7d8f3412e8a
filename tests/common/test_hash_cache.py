"""The cache of hashes: where it is, what it forgets, and that a broken one is no error."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from common import hash_cache
from common.hash_cache import cache_file, identity, recall, remember

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "SMALL", 1)


def old_file(path: Path, content: bytes = b"abc") -> Path:
    path.write_bytes(content)
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    return path


def keep(file: Path, digest: str = DIGEST) -> None:
    remember(file, identity(file), digest)


def test_a_hash_is_kept_for_another_process(tmp_path):
    file = old_file(tmp_path / "a")
    assert recall(file) is None
    keep(file)
    assert recall(file) == DIGEST
    assert json.loads(cache_file().read_text()) == {str(file.resolve()): {"identity": identity(file), "sha256": DIGEST}}


def test_a_file_is_known_by_each_of_its_names(tmp_path):
    """The hub's cache holds links from a model's folder to its files."""
    file = old_file(tmp_path / "blob")
    link = tmp_path / "model.safetensors"
    link.symlink_to(file)
    keep(link)
    assert recall(file) == recall(link) == DIGEST


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'"text"', b'{"%s": 3}', b'{"%s": {}}', b'{"%s": {"identity": [1], "sha256": 7}}']
    + [b"[" * 100_000],
)
def test_a_damaged_cache_is_as_none_and_is_replaced(tmp_path, content):
    file = old_file(tmp_path / "a")
    cache_file().parent.mkdir(parents=True)
    cache_file().write_bytes(content.replace(b"%s", os.fsencode(str(file))))
    assert recall(file) is None
    keep(file)
    assert recall(file) == DIGEST


def test_a_hash_that_is_none_is_not_used(tmp_path):
    file = old_file(tmp_path / "a")
    keep(file, "not a hash")
    assert recall(file) is None


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path, capfd):
    (tmp_path / "cache").write_text("a file where the folder should be")
    file = old_file(tmp_path / "a")
    keep(file)
    assert recall(file) is None
    assert capfd.readouterr() == ("", "")


def test_without_a_home_folder_nothing_is_kept(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    file = old_file(tmp_path / "a")
    keep(file)
    assert recall(file) is None


def test_the_oldest_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(hash_cache, "MOST", 3)
    files = [old_file(tmp_path / str(number)) for number in range(4)]
    for file in files[:3]:
        keep(file)
    keep(files[0])  # again, so that 1 is the oldest now
    keep(files[3])
    assert [recall(file) for file in files] == [DIGEST, None, DIGEST, DIGEST]


def test_a_small_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(hash_cache, "SMALL", 4)
    keep(old_file(tmp_path / "a", b"abc"))
    assert not cache_file().exists()
    keep(old_file(tmp_path / "b", b"abcd"))
    assert recall(tmp_path / "b") == DIGEST


def test_a_file_that_changed_a_moment_ago_is_not_kept(tmp_path):
    """It may change again within one step of the file system's clock, and keep its size and time."""
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    keep(file)
    assert recall(file) is None


def test_a_file_that_changed_while_it_was_read_is_not_kept(tmp_path):
    file = old_file(tmp_path / "a")
    before = identity(file)
    old_file(file, b"abcd")
    remember(file, before, DIGEST)
    assert recall(file) is None


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "{home}/xdg"}, "xdg"),
        ("linux", {"XDG_CACHE_HOME": "relative/paths/are/invalid"}, ".cache"),
        ("linux", {}, ".cache"),
        ("darwin", {}, "Library/Caches"),
        ("win32", {"LOCALAPPDATA": "{home}/local"}, "local"),
        ("win32", {}, "AppData/Local"),
    ],
)
def test_it_is_where_the_system_keeps_caches(tmp_path, monkeypatch, platform, variables, folder):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_file() == tmp_path / folder / "ask-a-picture" / "sha256.json"
