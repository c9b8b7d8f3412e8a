"""Every GPU figure in a README is in a results file."""

from __future__ import annotations

import json

import pytest

from benchmarks.tables import (
    ARCHITECTURES,
    BEGIN,
    END,
    MARKS,
    PAGES,
    READMES,
    RESULTS,
    ROOT,
    architecture_table,
    newest,
    replaced,
    short_table,
    table,
    unfounded,
)

RESULT = {
    "card": "NVIDIA H100",
    "date": "2026-11-26",
    "commit": "abc",
    "versions": {"torch": "2.11.0"},
    "measurements": [
        {
            **{"part": "training", "name": "ours 1.5b, trees of 5", "status": "ok", "questions/s": 465.4},
            **{"tokens/s": 81_000.2, "peak GiB": 61.23, "MFU, 4N alone": 0.431},
        },
        {"part": "training", "name": "llava 1.5b, rows", "status": "failed", "error": "CUDA"},
    ],
}


@pytest.mark.parametrize("name", READMES)
def test_every_gpu_figure_of_a_readme_is_in_a_results_file(name):
    assert unfounded((ROOT / name).read_text(encoding="utf-8"), newest(RESULTS)) == []


def test_a_figure_that_was_changed_by_hand_is_found():
    results = {"NVIDIA H100": RESULT}
    text = replaced(f"before\n{BEGIN}\n{END}\nafter", table(RESULT))
    assert "| ours 1.5b, trees of 5 | 465 | 81,000 | 61.2 | 43.1 |" in text
    assert "llava" not in text and text.startswith("before") and text.endswith("after")
    assert unfounded(text, results) == []
    assert unfounded(text.replace("465", "466"), results) == ["| ours 1.5b, trees of 5 | 466 | 81,000 | 61.2 | 43.1 |"]
    assert unfounded(text, {}) != []


def test_the_newest_result_of_a_card_counts(tmp_path):
    for date in ("2026-11-26", "2026-12-01", "2026-11-30"):
        (tmp_path / f"h100-{date}.json").write_text(json.dumps({**RESULT, "date": date}), encoding="utf-8")
    assert newest(tmp_path)["NVIDIA H100"]["date"] == "2026-12-01"


@pytest.mark.parametrize("name", [*PAGES, *READMES])
def test_the_table_of_architectures_is_the_one_of_its_results(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    made = short_table if name in READMES else architecture_table
    assert replaced(text, made(json.loads(ARCHITECTURES.read_text(encoding="utf-8"))), MARKS) == text


def test_a_line_of_the_table_is_the_mean_over_its_seeds():
    floors = {"majority": 0.3, "question_only": 0.4, "other_picture": 0.25, "no_picture": 0.2}
    numbers = {
        "visual_tokens": 63,
        "trained": [1000, 2000],
        "floors": floors,
        "text_tokens_per_second": 900,
        "memory_mib": 99.6,
        "first_token_ms": 20.4,
    }
    rows = [{"variant": "mlp", "score": score, "tokens_per_second": 2000, **numbers} for score in (0.5, 0.7)]
    facts = {"steps": 150, "questions": 200, "device": "CPU", "torch": "2.13", "date": "2026-11-27"}
    lines = architecture_table({**facts, "rows": rows}).splitlines()
    assert lines[2] == "| mlp | 63 | 1,000, 2,000 | 0.60 ± 0.14 (2) | 0.25 | 0.20 | 2,000 | 900 | 100 | 20 |"
    assert short_table({**facts, "rows": rows}).splitlines()[2] == "| mlp | 63 | 1,000, 2,000 | 0.60 ± 0.14 (2) |"
