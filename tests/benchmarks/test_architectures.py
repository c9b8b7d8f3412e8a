"""Which runs a measurement of the architectures makes, in which order, and what it keeps of an earlier one."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import architectures


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """A function that measures with arguments, in runs that are only noted down; the runs, and the file's rows."""
    threads = torch.get_num_threads()

    def run_alone(name, seed, args):
        made.append((name, seed))
        speeds = {"tokens_per_second": 9.0, "text_tokens_per_second": 8.0, "first_token_ms": 7.0, "memory_mib": 6.0}
        floors = dict.fromkeys(("majority", "question_only", "other_picture", "no_picture"), 0.25)
        costs = {"visual_tokens": 63, "trained": [5], "seconds": 1.0}
        return {"variant": name, "seed": seed, "score": seed / 2, "floors": floors, **costs, **speeds}

    def go(*arguments: str) -> tuple[list, list]:
        made.clear()
        given = ["--output", str(tmp_path / "a.json"), "--variants", "pool", "mlp", *arguments]
        monkeypatch.setattr("sys.argv", ["architectures", *given])
        architectures.main()
        rows = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["rows"]
        return sorted(made), [(row["variant"], row["seed"]) for row in rows]

    made: list[tuple[str, int]] = []
    monkeypatch.setattr(architectures, "run_alone", run_alone)
    yield go
    torch.set_num_threads(threads)


def test_every_variant_has_a_seed_before_one_has_two_and_only_missing_runs_are_made(measure):
    assert measure("--seeds", "1") == ([("mlp", 0), ("pool", 0)], [("pool", 0), ("mlp", 0)])
    rows = [("pool", 0), ("mlp", 0), ("pool", 1), ("mlp", 1)]
    assert measure("--seeds", "2", "--jobs", "2") == ([("mlp", 1), ("pool", 1)], rows)
    assert measure("--seeds", "2") == ([], rows)


def test_it_ends_with_the_table(measure, capsys):
    measure("--seeds", "2")
    assert "| pool | 63 | 5 | 0.25 ± 0.35 (2) | 0.25 | 0.25 | 9 | 8 | 6 | 7 |" in capsys.readouterr().out


def test_rows_of_other_steps_are_not_added_to(measure):
    measure("--seeds", "1", "--steps", "3")
    with pytest.raises(SystemExit, match="it was measured with --steps 3 --questions 300; name another file"):
        measure("--seeds", "2", "--steps", "4")
