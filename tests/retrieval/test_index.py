"""The index: exact search, only new pictures, crashes between and within lines."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from common.errors import UserError
from retrieval import index
from retrieval.index import Index, pictures_under, top_rows
from tests.helpers.towers import draw


def unit_rows(n: int, width: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_search_by_chunks_is_the_whole_matrix_product(monkeypatch):
    monkeypatch.setattr(index, "CHUNK", 7)
    vectors, query = unit_rows(50, 8), unit_rows(1, 8, 1)[0]
    usable = np.arange(50) % 3 > 0
    scores, rows = top_rows(vectors, query, 10, usable)
    whole = np.where(usable, vectors @ query, -np.inf)
    assert rows.tolist() == np.argsort(-whole, kind="stable")[:10].tolist()
    np.testing.assert_allclose(scores, whole[rows], rtol=1e-6)
    assert top_rows(vectors, query, 99, usable)[1].size == usable.sum()


def test_rows_of_equal_score_come_in_their_order(monkeypatch):
    monkeypatch.setattr(index, "CHUNK", 2)
    assert top_rows(np.ones((5, 3), np.float32), np.ones(3, np.float32), 3, np.ones(5, bool))[1].tolist() == [0, 1, 2]


def test_only_new_and_changed_pictures_are_missing_and_old_rows_count_no_more(tmp_path):
    files = draw(tmp_path / "photos", a="red", b="green", c="blue")
    found = Index.create(tmp_path / "index", "m", "hash", 4)
    assert found.missing(files) == files
    vectors = np.eye(4, dtype=np.float32)
    found.add(files, vectors[:3])
    os.utime(files[1], ns=(1, 1))
    files[2].unlink()
    again = Index.open(tmp_path / "index")
    assert again.missing(files[:2]) == [files[1]]
    again.add([files[1]], vectors[3:])
    assert again.forget_missing(tmp_path / "photos") == 1 and again.forget_missing(tmp_path / "photos") == 0
    last = Index.open(tmp_path / "index")
    assert last.paths == [str(files[0]), None, None, str(files[1])] == again.paths
    assert [path for path, _ in last.search(vectors[3], 9)] == [str(files[1]), str(files[0])]
    assert [path for path, _ in last.search(vectors[3], 9, lambda path: path == str(files[0]))] == [str(files[0])]


def test_after_a_crash_the_rows_without_a_line_are_made_again(tmp_path):
    files = draw(tmp_path / "photos", a="red", b="green")
    found = Index.create(tmp_path / "index", "m", "hash", 3)
    found.add(files[:1], np.ones((1, 3), np.float32))
    lines = tmp_path / "index" / "pictures.jsonl"
    whole = lines.read_bytes()
    found.add(files[1:], np.zeros((1, 3), np.float32))
    lines.write_bytes(lines.read_bytes()[: len(whole) + 5])  # half of the second line was written
    again = Index.open(tmp_path / "index")
    assert again.missing(files) == files[1:] and again.vectors.tolist() == [[1.0, 1.0, 1.0]]
    again.add(files[1:], np.full((1, 3), 2.0, np.float32))
    assert Index.open(tmp_path / "index").vectors[1].tolist() == [2.0] * 3 and lines.read_bytes().startswith(whole)


def test_an_index_of_other_towers_and_one_that_lacks_rows_are_refused(tmp_path):
    files = draw(tmp_path / "photos", a="red")
    Index.create(tmp_path / "index", "m", "hash", 3).add(files, np.ones((1, 3), np.float32))
    with pytest.raises(UserError, match="was made by m, not by other; name another folder with --index"):
        Index.create(tmp_path / "index", "other", "hash2", 3)
    os.truncate(tmp_path / "index" / "vectors.f32", 8)
    with pytest.raises(UserError, match="cannot be read .*lacks 4 bytes.*; delete it and index again"):
        Index.open(tmp_path / "index")
    with pytest.raises(UserError, match="no index; make one with"):
        Index.open(tmp_path / "none")


def test_pictures_are_found_by_their_suffix_in_all_folders(tmp_path):
    draw(tmp_path / "b", x="red")
    draw(tmp_path / "a" / "deep", y="blue", 图="green")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "b" / ".hidden.png").write_bytes(b"")
    names = [path.relative_to(tmp_path.resolve()).as_posix() for path in pictures_under(tmp_path)]
    assert names == ["a/deep/y.png", "a/deep/图.png", "b/x.png"]
    with pytest.raises(UserError, match="no such folder"):
        pictures_under(tmp_path / "none")


def test_lines_are_json_with_the_path_as_it_is(tmp_path):
    files = draw(tmp_path / "photos", 图="red")
    Index.create(tmp_path / "index", "m", "h", 1).add(files, np.ones((1, 1), np.float32))
    line = json.loads((tmp_path / "index" / "pictures.jsonl").read_text(encoding="utf-8"))
    assert line == {"path": str(files[0]), "stamp": index.stamp(files[0])}
