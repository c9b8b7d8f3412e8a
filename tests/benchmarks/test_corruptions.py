"""Every figure of the docs' table of worse pictures is in the results file."""

from __future__ import annotations

import json

import pytest

from benchmarks.corruptions import FILE, MARKS, WORDS, table
from benchmarks.tables import ROOT
from dataset.corruptions import KINDS
from evaluation.corrupting import LOOKED_AT


@pytest.mark.parametrize("name", WORDS)
def test_the_table_of_a_page_is_the_results_file(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    between = text[text.index(MARKS[0]) + len(MARKS[0]) : text.index(MARKS[1])].strip()
    assert between == table(json.loads(FILE.read_text(encoding="utf-8"))["runs"], WORDS[name])


def test_each_run_was_asked_500_questions_about_every_kind():
    runs = json.loads(FILE.read_text(encoding="utf-8"))["runs"]
    for run in runs["plain"] + runs["augmented"]:
        assert [row["kind"] for row in run["kinds"]] == [*KINDS, LOOKED_AT]
        assert {mean["n"] for row in run["kinds"] for mean in row["scores"]} == {500}


def test_a_figure_is_the_mean_over_the_runs():
    def run(*means: float) -> dict:
        return {"kinds": [{"kind": "occlusion", "scores": [{"mean": mean} for mean in means]}]}

    runs = {"plain": [run(0.9, 0.8, 0.6, 0.4), run(0.8, 0.7, 0.5, 0.3)], "augmented": [run(0.7, 0.7, 0.6, 0.5)]}
    heading, _, row = table(runs, WORDS["docs/baselines.zh-CN.md"]).splitlines()
    assert heading == "| 强度 | 普通 0 | 1 | 2 | 3 | 增强 0 | 1 | 2 | 3 |"
    assert row == "| 随机遮挡 | 0.850 | 0.750 | 0.550 | 0.350 | 0.700 | 0.700 | 0.600 | 0.500 |"
