"""Two results side by side: differences with their paired standard errors, and which questions changed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from evaluation import compare
from evaluation.compare import differences, other_settings, paired
from evaluation.html.comparison import comparison_content
from tests.helpers.evaluating import guesses, looks, run
from tests.helpers.results import line, result, wrong


def write(folder: Path, a: dict, b: dict) -> list[str]:
    files = [folder / "a.json", folder / "b.json"]
    for file, content in zip(files, (a, b), strict=True):
        file.write_text(json.dumps(content), encoding="utf-8")
    return [*map(str, files), "--output", str(folder / "comparison.html")]


def test_the_error_is_that_of_the_paired_differences_clustered_by_picture():
    # Four pictures of two questions each; of a, one question of each of the first two pictures is wrong.
    pictures = ["w", "w", "x", "x", "y", "y", "z", "z"]
    a = result([(wrong if i in (0, 2) else line)(i, [picture]) for i, picture in enumerate(pictures)])
    b = result([line(i, [picture], type="shape" if i > 5 else "color") for i, picture in enumerate(pictures)])
    found = differences(paired(a, b))
    overall = found["overall"]
    assert (overall["a"]["mean"], overall["b"]["mean"], overall["images"]) == (0.75, 1.0, 4)
    assert overall["difference"] == 0.25
    # Sums of deviations by picture: 0.5, 0.5, -0.5, -0.5; sqrt(4/3 * 4 * 0.25) / 8.
    assert overall["standard_error"] == pytest.approx(math.sqrt(4 / 3) / 8)
    assert overall["clear"] is False
    assert found["by_type"]["color"]["a"]["n"] == 8  # the first result's types
    assert found["by_language"].keys() == {"en"} and found["by_source"].keys() == {"shapes"}


def test_a_question_that_one_run_could_not_be_asked_is_left_out_of_the_difference():
    a = result([line(0, ["x"]), wrong(1, ["y"]), line(2, ["z"], score=None, prediction=None)])
    b = result([line(0, ["x"]), line(1, ["y"]), line(2, ["z"])])
    assert differences(paired(a, b))["overall"]["a"]["n"] == 2


def test_captions_are_scored_over_those_that_both_have_written():
    def captions(*texts: str | None) -> dict:
        told = {"type": "caption", "score": None, "references": ["a red dot"]}
        return result(
            [line(i, [str(i)], **told, prediction=text) for i, text in enumerate(texts) if text != "left out"]
        )

    a, b = captions("a red dot", "a red dot", "blue", None), captions("a red dot", "no", "left out", "a red dot")
    first, second = differences(paired(a, b))["captions"]["en"]
    assert (first["n"], second["n"]) == (2, 2)
    assert first["BLEU-1"] == pytest.approx(1, abs=1e-6) and second["BLEU-1"] < 0.8
    (row, _) = comparison_content(a, b, paired(a, b), differences(paired(a, b)))["captions"]
    assert (row["source"], row["language"], row["BLEU-1"]) == ("A", "en", first["BLEU-1"])
    assert differences(paired(result([line(0)]), result([line(0)])))["captions"] == {}


def test_it_prints_differences_and_the_questions_that_changed(data, stub, tmp_path, capsys):
    stub(guesses)
    a = run(data)
    stub(looks)
    b = run(data, "generate.max_new_tokens=9")
    files = write(tmp_path, a, b)
    capsys.readouterr()
    assert compare.main([*files, "--changed", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (overall,) = [line.split() for line in lines if line.startswith("all ")]
    assert overall[1:5] == ["30", "0.333", "1.000", "0.667"] and overall[-1] == "yes"
    assert any(line.startswith("type yes/no") for line in lines)
    assert any(line.startswith("A captions (zh)") for line in lines)
    assert any(line.startswith("B is clearly better (+0.667, standard error 0.145, 12 pictures)") for line in lines)
    assert "not alike in the two: generate.max_new_tokens: 8 / 9" in lines
    assert "20 questions are answered better by B, 0 worse, 4 otherwise with the same score." in lines
    page = tmp_path / "comparison.html"
    assert lines[-2:] == ["", f"{page} shows them with their pictures."] and page.stat().st_size > 10_000
    assert lines[-7:-2] == [
        "better  13/0/0  What color is it?",
        "        'red' -> 'green', reference 'green'",
        "better  13/0/1  Is it red?",
        "        'yes' -> 'no', reference 'no'",
        "... and 18 more; --changed 20 lists all",
    ]


def test_results_that_are_alike_do_not_clearly_differ(tmp_path, capsys):
    same = result([line(i, [str(i)]) for i in range(5)])
    assert compare.main(write(tmp_path, same, same)) == 0
    printed = capsys.readouterr().out
    assert "A and B do not clearly differ (+0.000, standard error 0.000, 5 pictures)" in printed
    assert "not alike" not in printed and "0 questions are answered better by B, 0 worse" in printed


def test_questions_of_one_result_only_are_counted(tmp_path, capsys):
    a, b = result([line(i, [str(i)]) for i in range(5)]), result([line(i, [str(i)]) for i in range(3, 9)])
    compare.main(write(tmp_path, a, b))
    printed = capsys.readouterr().out
    assert "3 questions are in A only and are left out." in printed
    assert "4 questions are in B only and are left out." in printed


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (line(9), "no question in common"),
        (line(0, metric="anls"), "question s/0: metric = 'exact_match' in the one result and 'anls' in the other"),
        (
            line(0, references=["blue"]),
            "question s/0: references = ['red'] in the one result and ['blue'] in the other",
        ),
    ],
)
def test_other_questions_and_other_metrics_are_refused(tmp_path, capsys, other, message):
    assert compare.main(write(tmp_path, result([line(0)]), result([other]))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_file_that_is_no_result_is_one_line(tmp_path, capsys):
    files = write(tmp_path, result([line(0)]), {"predictions": []})
    assert compare.main(files) == 2
    assert "b.json: not a result of this version of evaluate.py" in capsys.readouterr().err


def test_settings_that_differ_are_named():
    a, b = {"seed": 0, "generate": {"x": 1, "y": 2}}, {"seed": 1, "generate": {"x": 1, "y": 3}}
    assert list(other_settings(a, b)) == ["seed: 0 / 1", "generate.y: 2 / 3"]
    towers = {"seed": 0, "generate": {}}
    assert list(other_settings(a, towers)) == ["generate: A has settings of it, the other has none"]
