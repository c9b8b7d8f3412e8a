"""Every figure of a README's table of baselines is in the results file."""

from __future__ import annotations

import json

import pytest

from benchmarks.baselines import FILE, MARKS, table
from benchmarks.tables import READMES, ROOT, replaced

ROW = {
    **{"model": "lstm", "questions": 2400, "score": 0.7551, "standard_error": 0.0081, "question_only": 0.381},
    **{"other_picture": 0.35, "no_picture": 0.3, "seconds": 123.0},
}


def between_marks(text: str) -> str:
    return text[text.index(MARKS[0]) + len(MARKS[0]) : text.index(MARKS[1])].strip()


@pytest.mark.parametrize("name", READMES)
def test_the_table_of_a_readme_is_the_results_file(name):
    wanted = table(json.loads(FILE.read_text(encoding="utf-8")))
    assert between_marks((ROOT / name).read_text(encoding="utf-8")) == wanted


def test_question_stays_within_two_standard_errors_of_the_question_only_floor():
    rows = {row["model"]: row for row in json.loads(FILE.read_text(encoding="utf-8"))["rows"]}
    question = rows["question"]
    assert abs(question["score"] - question["question_only"]) <= 2 * question["standard_error"]
    assert rows["attention"]["score"] - question["question_only"] > 0.4  # it looks


def test_a_row_has_score_floors_and_time():
    text = replaced(f"before\n{MARKS[0]}\n{MARKS[1]}\nafter", table({"rows": [ROW]}), MARKS)
    assert "| lstm | 0.755 ± 0.008 | 0.381 | 0.350 | 0.300 | 2.0 min |" in text
    assert text.startswith("before") and text.endswith("after")
