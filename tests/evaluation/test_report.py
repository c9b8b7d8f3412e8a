"""The report: scores by group, the result file, and the tables on the terminal."""

from __future__ import annotations

import importlib.metadata

import pytest

from dataset.normalise import NORMALISATION
from dataset.prompt import IMAGE_TOKEN
from evaluation.questions import Question
from evaluation.report import score_groups
from evaluation.scores import METRICS, Metric
from tests.helpers.evaluating import edit, looks, run


def answered(prediction: str, *references: str, **fields) -> Question:
    own = {"type": "color", "language": "en", "source": "s", "images": ["a"], "group": "a", **fields}
    return Question("", "", list(references), prediction=prediction, **own)


def test_scores_per_type_language_and_source():
    questions = [
        answered("Red.", "red", baselines={"no_picture": "red"}),
        answered("red", "blue", group="b", source="t", baselines={"no_picture": "red"}),
        answered("two", "2", "a pair", type="count", group="c"),
        answered("红色", "红色。", language="zh", group="d"),
        answered("dog", *["dog"] * 2, *["cat"] * 8, type="other", group="e"),
        answered("a dog runs", "a dog runs", "the dog runs fast", type="caption"),
        answered("a cat sleeps", "a cat sleeps", "one cat sleeps", type="caption", source="t"),
        Question("", "", ["x"], ["b"], "b", "s", "en", "color"),  # never answered
    ]
    scores = score_groups(questions)
    overall = scores["overall"]
    assert (overall["n"], overall["images"], overall["score"]) == (5, 5, 0.8)
    # Deviations 0.2, -0.8, 0.2, 0.2, 0.2 in five groups: sqrt(5/4 * 0.8) / 5.
    assert overall["standard_error"] == pytest.approx(0.2)
    assert overall["baselines"] == {"no_picture": {"n": 2, "mean": 0.5, "standard_error": pytest.approx(0.5)}}
    assert overall["metrics"]["exact_match"]["n"] == 5
    assert (overall["metrics"]["vqa_accuracy"]["n"], overall["metrics"]["vqa_accuracy"]["mean"]) == (
        1,
        pytest.approx(0.6),
    )
    assert overall["captions"]["en"]["n"] == 2 and overall["captions"]["en"]["BLEU-1"] == pytest.approx(1, abs=1e-6)
    assert {kind: (row["n"], row["score"]) for kind, row in scores["by_type"].items()} == {
        "color": (3, pytest.approx(2 / 3)),
        "count": (1, 1.0),
        "caption": (0, None),
        "other": (1, 1.0),
    }
    assert {name: (row["n"], row["score"]) for name, row in scores["by_language"].items()} == {
        "en": (4, 0.75),
        "zh": (1, 1.0),
    }
    assert scores["by_source"]["t"]["score"] == 0.0
    assert scores["by_source"]["t"]["captions"]["en"]["CIDEr"] is None


def test_captions_stay_out_of_the_accuracy_and_are_scored_in_their_language(data, stub):
    stub(lambda question, seen: "这是红色的图片。" if "描述" in question else "nothing")
    result = run(data)
    assert (result["scores"]["overall"]["n"], result["scores"]["overall"]["score"]) == (30, 0.0)
    captions = result["scores"]["by_type"]["caption"]["captions"]
    assert set(captions) == {"zh"} and captions["zh"]["n"] == 6
    # Words 这是/红色/的/图片 against the same or another colour: 4 of 4 in a third, 3 of 4 in the others.
    assert captions["zh"]["BLEU-1"] == pytest.approx((2 * 4 + 4 * 3) / 24)
    lines = [line for line in result["predictions"] if line["type"] == "caption"]
    assert [(line["score"], line["scores"]) for line in lines] == [(None, {})] * 6


def test_ten_answers_are_scored_by_vqa_accuracy_too(data, stub):
    def ten(annotations):
        annotations["12"][0]["turns"][0]["a"] = ["red"] * 2 + ["dark red"] * 8

    edit(data, ten)
    stub(looks)
    result = run(data, "--no-probes")
    (line,) = [line for line in result["predictions"] if "vqa_accuracy" in line["scores"]]
    assert line["scores"] == {"exact_match": 1.0, "vqa_accuracy": pytest.approx(0.6)} and line["score"] == 1.0
    assert result["scores"]["overall"]["metrics"]["vqa_accuracy"]["n"] == 1
    assert run(data, "--no-probes", "--metric", "vqa_accuracy")["predictions"][0]["score"] == pytest.approx(0.6)


def test_the_result_file_says_how_the_numbers_were_made(data, stub, capsys):
    stub(looks)
    result = run(data)
    assert result["complete"] is True
    assert result["checkpoint"] == (data / "checkpoint-1").as_posix() and result["device"] == "cpu"
    assert result["data"] == f"{(data / 'annotations.json').as_posix()} (test)"
    assert result["system"] == "Be brief."
    assert result["history"].startswith("none")
    assert result["generate"]["max_new_tokens"] == 8 and result["generate"]["do_sample"] is False
    assert result["segmenter"] == f"jieba {importlib.metadata.version('jieba')}"
    assert {"python", "torch", "transformers", "peft", "pycocoevalcap", "jieba"} == set(result["versions"])
    assert result["normalisation"] == NORMALISATION
    first = (data / "12.png").as_posix()
    other = result["predictions"][0]["baselines"]["other_picture"]
    assert result["predictions"][0] == {
        "id": "12/0/0",
        "group": first,
        "question": "What color is it?",
        "asked": f"{IMAGE_TOKEN}\nWhat color is it?",
        "options": [],
        "references": ["red"],
        "images": [first],
        "source": "shapes",
        "language": "en",
        "type": "color",
        "metric": "exact_match",
        "prediction": "red",
        "score": 1.0,
        "scores": {"exact_match": 1.0},
        "baselines": {
            "majority": {"answer": "blue", "score": 0.0},
            "question_only": {"answer": "blue", "score": 0.0},
            "other_picture": other,
            "no_picture": {"answer": "red", "score": 1.0},
        },
    }
    assert other.keys() == {"answer", "score", "images"}
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split()
        == "n exact +- majority question only other picture no picture chance usual wrong looks".split()
    )
    assert lines[1].split()[:5] == ["all", "30", "1.000", "0.000", "0.467"]
    (row,) = [line.split() for line in lines if line.startswith("type yes/no")]
    assert row[2:5] == ["12", "1.000", "0.000"] and row[-3:] == ["0.500", "1.000", "yes"]
    assert any(line.startswith("source bilder (zh)") for line in lines)
    assert not any(line.startswith("type caption") for line in lines)  # it has no exact match to show


def test_whole_sentences_as_references_are_pointed_out(data, stub, capsys):
    def talk(annotations):
        annotations["12"][0]["turns"][0]["a"] = ["The thing in this picture is red."]

    edit(data, talk)
    stub(looks)
    assert run(data, "--no-probes")["long_references"] == 1
    assert "1 of 30 questions have whole sentences as references" in capsys.readouterr().out


def test_a_new_metric_is_one_function_and_one_entry(data, stub, monkeypatch, capsys):
    def first_letter(answer, references, language):
        return 0.5 * (answer[:1] == references[0][:1]) + 0.5 * (answer == references[0])

    monkeypatch.setitem(METRICS, "first_letter", Metric("letter", first_letter))
    stub(lambda question, seen: looks(question, seen)[:1] if "What" in question else looks(question, seen))
    result = run(data, "--metric", "shapes=first_letter")
    assert result["metrics"] == {"bilder": "exact_match", "shapes": "first_letter"}
    assert result["scores"]["by_source"]["shapes"]["score"] == pytest.approx((12 * 0.5 + 12) / 24)
    assert result["scores"]["by_source"]["shapes"]["metrics"]["exact_match"]["mean"] == 0.5
    assert result["comparisons"]["no_picture"]["model"] == pytest.approx((12 * 0.5 + 12 + 6) / 30)
    assert capsys.readouterr().out.split("\n")[0].split()[:5] == ["n", "score", "+-", "exact", "letter"]
