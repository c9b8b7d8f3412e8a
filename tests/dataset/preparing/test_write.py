"""The result files are replaced together or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from common.errors import UserError
from dataset.preparing.write import write_results


@pytest.mark.parametrize("failing", ["dumps", "fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_files_and_no_scraps(tmp_path, monkeypatch, failing):
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    write_results(dict.fromkeys(paths, "old"))
    before = {path: path.read_bytes() for path in paths}
    calls = []

    def on_the_last(*args, original, **options):
        calls.append(args)
        if len(calls) == (1 if failing == "replace" else 3):
            raise OSError(28, "No space left on device")
        return original(*args, **options)

    module = json if failing == "dumps" else os
    original = getattr(module, failing)
    monkeypatch.setattr(module, failing, lambda *a, **o: on_the_last(*a, original=original, **o))
    with pytest.raises(UserError, match="json: cannot be written: No space left on device"):
        write_results(dict.fromkeys(paths, "new"))
    assert {path: path.read_bytes() for path in sorted(tmp_path.iterdir())} == before


def test_all_files_are_complete_before_the_first_is_replaced(tmp_path, monkeypatch):
    paths = [tmp_path / "deep" / name for name in ("a.json", "b.json")]
    original, seen = os.replace, []

    def replace(source, target):
        seen.append(sorted(Path(p).read_text(encoding="utf-8") for p in tmp_path.glob("deep/.*.tmp")))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_results({paths[0]: ["一"], paths[1]: {}})
    assert seen == [['[\n  "一"\n]\n', "{}\n"], ["{}\n"]]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a.json", "b.json"]


def test_a_folder_with_the_name_of_a_result_is_noticed_before_anything_is_replaced(tmp_path):
    (tmp_path / "b.json").mkdir()
    with pytest.raises(UserError, match="b.json: cannot be written"):
        write_results({tmp_path / "a.json": 1, tmp_path / "b.json": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_a_crash_between_two_renames_never_leaves_new_files_beside_old_ones(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("map.json", "skipped.json", "annotations.json")]
    original = os.replace
    for crash in range(1, 5):
        write_results(dict.fromkeys(paths, "old"))
        calls = []

        def replace(source, target, crash=crash, calls=calls):
            calls.append(target)
            if len(calls) == crash:
                raise KeyboardInterrupt
            original(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write_results(dict.fromkeys(paths, "new"))
        monkeypatch.setattr(os, "replace", original)
        found = {json.loads(path.read_text()) for path in paths if path.exists()}
        assert paths[-1].exists() == (crash == 1) and (found == {"old"} or not paths[-1].exists())
    write_results(dict.fromkeys(paths, "new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
