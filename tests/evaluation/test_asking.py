"""Asking: each question alone, again with another picture and with none; batches, bad pictures and Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from dataset.prompt import IMAGE_TOKEN
from evaluation import asking
from evaluation.asking import Pictures
from tests.helpers.evaluating import COLORS, answer_of, edit, looks, run


def test_every_question_is_asked_alone_with_its_picture_in_front(data, stub):
    model = stub(looks)
    run(data, "--no-probes")
    assert len(model.requests) == 36
    for request in model.requests:
        assert len(request.turns) == 1 and request.turns[0].answer is None
        assert request.turns[0].question.count(IMAGE_TOKEN) == len(request.images) == 1
    asked = {request.turns[0].question for request in model.requests}
    assert f"{IMAGE_TOKEN}\nIs it red?" in asked  # a second turn, which has no placeholder of its own


def test_a_conversations_own_system_text_goes_with_its_questions_and_their_probes(data, stub):
    model = stub(looks)

    def change(annotations: dict) -> None:
        next(c for group in annotations.values() for c in group if c["split"] != "train")["system"] = "Be brief."

    edit(data, change)
    run(data)
    own = [request.turns[0].question.removeprefix(f"{IMAGE_TOKEN}\n") for request in model.requests if request.system]
    assert sorted(own) == sorted(["What color is it?", "Is it red?"] * 3)
    assert {request.system for request in model.requests} == {"Be brief.", None}


def test_without_a_picture_means_without_a_placeholder(data, stub):
    model = stub(looks)
    run(data)
    blind = [request for request in model.requests if not request.images]
    assert {r.turns[0].question for r in blind} == {"What color is it?", "Is it red?", "它是什么颜色？"}
    assert len(blind) == 30  # captions are not asked again
    assert len(model.requests) == 36 + 30 + 30


def test_the_other_picture_is_never_the_own_one_and_all_are_used_alike(data, stub):
    stub(looks)
    result = run(data)
    replaced = {}
    for line in result["predictions"]:
        if line["type"] != "caption":
            (own,), (other,) = line["images"], line["baselines"]["other_picture"]["images"]
            assert replaced.setdefault(own, other) == other  # the same for all questions of a picture
            seen = list(COLORS)[int(Path(other).stem) % 3]
            assert answer_of(line, "other_picture") == looks(line["question"], [seen])
    assert all(own != other for own, other in replaced.items())
    assert len(replaced) == len(set(replaced.values())) == 12


def test_questions_without_a_picture_are_scored_but_not_probed(data, stub):
    talk = {
        "source": "text",
        "language": "en",
        "split": "test",
        "turns": [{"q": "Capital of France?", "a": ["Paris"]}],
    }
    edit(data, lambda annotations: annotations.update(text=[talk]))
    stub(lambda question, seen: "paris" if "France" in question else looks(question, seen))
    result = run(data)
    (line,) = [line for line in result["predictions"] if line["source"] == "text"]
    assert line["score"] == 1.0 and line["images"] == [] and line["baselines"] == {}
    assert result["scores"]["overall"]["n"] == 31
    assert result["comparisons"]["no_picture"]["n"] == 30


def test_each_picture_is_read_once(data, stub, monkeypatch):
    stub(looks)
    read, load = [], asking.load_image
    monkeypatch.setattr(asking, "load_image", lambda path, limit: read.append(path) or load(path, limit))
    run(data)
    assert len(read) == len(set(read)) == 12


def test_the_memory_for_pictures_is_bounded(tmp_path):
    for number in range(4):
        Image.new("RGB", (10, 10)).save(tmp_path / f"{number}.png")
    pictures = Pictures(max_pixels=1000, most_kept=250)
    for number in (0, 1, 2, 3, 2, 0):
        pictures(str(tmp_path / f"{number}.png"))
        assert pictures.pixels_kept == 100 * len(pictures.kept) <= 250
    assert [Path(path).stem for path in pictures.kept] == ["2", "0"]  # the latest used, not the latest read


def test_unreadable_pictures_are_counted_reported_and_left_out(data, stub, capsys):
    (data / "13.png").unlink()
    (data / "14.png").write_bytes(b"not a picture")
    stub(looks)
    result = run(data)
    assert result["unasked"] == 6  # 13 has a Chinese conversation too
    assert {Path(path).name for path in result["unreadable_images"]} == {"13.png", "14.png"}
    assert (result["answered"], result["questions"]) == (30, 36)
    assert result["scores"]["overall"]["score"] == 1.0
    problems = [line for line in result["predictions"] if "problem" in line]
    assert len(problems) == 6 and all(line["prediction"] is None for line in problems)
    probes = [line["baselines"].get("other_picture", {"images": []}) for line in result["predictions"]]
    shown_instead = {image for probe in probes for image in probe["images"]}
    assert len(shown_instead) == 10
    assert not shown_instead & set(result["unreadable_images"])
    printed = capsys.readouterr().out
    assert "6 questions could not be asked and are left out (2 pictures cannot be read)" in printed
    assert "13.png" in printed


def test_a_refused_question_does_not_cost_its_batch(data, stub):
    def refuses(question: str, seen: list[str]) -> str:
        if "颜色" in question:
            raise UserError("the question cannot be asked: too long")
        return looks(question, seen)

    stub(refuses)
    result = run(data, "--no-probes")
    assert (result["unasked"], result["answered"]) == (6, 30)
    assert result["first_problem"] == "the question cannot be asked: too long"
    assert result["unreadable_images"] == {}


@pytest.mark.parametrize(("patience", "answered", "probed"), [(12, 10, 0), (43, 36, 5)])
def test_ctrl_c_keeps_what_was_answered(data, stub, capsys, patience, answered, probed):
    asked = []

    def tires(question: str, seen: list[str]) -> str:
        asked.append(question)
        if len(asked) > patience:
            raise KeyboardInterrupt
        return looks(question, seen)

    stub(tires)
    result = run(data, status=130)
    assert result["complete"] is False
    assert result["answered"] == len(result["predictions"]) == answered
    assert sum(answer_of(line, "other_picture") is not None for line in result["predictions"]) == probed
    assert result["scores"]["overall"]["score"] == 1.0
    assert result["looks_at_the_picture"] is None
    assert f"interrupted: {answered} of 36 questions answered" in capsys.readouterr().err
