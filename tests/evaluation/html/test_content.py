"""What the report shows of a result: its numbers, its questions, and how many of them fit."""

from __future__ import annotations

import pytest

from common.errors import UserError
from evaluation.html.content import report_content, write_report
from tests.helpers.results import draw, line, result, wrong


def content(lines, most_bytes=20_000_000, **fields):
    return report_content(result(lines, **fields), most_bytes)


def test_every_group_with_a_score_has_a_row_with_its_baselines_and_its_verdict():
    lines = [line(0, type="color"), wrong(1, type="count", language="zh"), line(2, type="caption", score=None)]
    blind = result(lines)["verdict_by_type"] | {"count": {"looks_at_the_picture": False}}
    found = content(lines, verdict_by_type=blind)["rows"]
    assert [(row["kind"], row["name"], row["series"][0]["score"], row["looks"]) for row in found] == [
        ("all", "", 0.5, None),
        ("type", "color", 1.0, True),
        ("type", "count", 0.0, False),
        ("language", "en", 1.0, None),
        ("language", "zh", 0.0, None),
        ("source", "shapes", 0.5, None),
    ]
    assert found[0]["baselines"] == {
        "majority": 0.0,
        "question_only": 0.1,
        "other_picture": 0.2,
        "no_picture": pytest.approx(0.3),
    }


@pytest.mark.parametrize(("ceiling", "shown"), [(None, None), (1.0, None), (0.9, 0.9)])
def test_a_ceiling_is_shown_where_it_is_below_one(ceiling, shown):
    scores = result([line(0)])["scores"]
    scores["overall"]["ceiling"] = ceiling
    assert content([line(0)], scores=scores)["rows"][0]["ceiling"] == shown


def test_a_question_names_its_pictures_and_what_was_said_with_another_and_with_none(tmp_path):
    first, second = draw(tmp_path, 2)
    answers = line(0)["baselines"] | {"other_picture": {"answer": "blue", "score": 0.0, "images": [second]}}
    found = content([line(0, [first], baselines=answers), line(1, [second])])
    assert [picture["name"] for picture in found["pictures"]] == [first, second]
    assert all(picture["src"].startswith("data:image/webp;base64,") for picture in found["pictures"])
    question = found["questions"][0]
    assert question["pictures"] == [0]
    assert question["answers"] == [
        {"text": "red", "score": 1.0, "pictures": []},
        {"text": "blue", "score": 0.0, "pictures": [1]},
        {"text": "red", "score": 1.0, "pictures": []},
    ]
    assert question["fitted"] == {"majority": "no", "question_only": "blue"}


def test_boxes_are_over_the_picture_that_the_question_names_or_the_last(tmp_path):
    pictures, about = draw(tmp_path, 2), "<box>(100,200),(300,600)</box> What?"
    asked = [
        line(0, pictures, question=about),
        line(1, pictures, question=f"Picture 1: {about}"),
        line(2, question="a"),
    ]
    found = content(asked)["questions"]
    assert [question["box_picture"] for question in found] == [1, 0, -1]
    assert found[1]["text"] == "Picture 1: What?" and found[1]["boxes"]["asked"] == [(100, 200, 300, 600)]


def test_an_answer_that_names_a_picture_shows_it(tmp_path):
    first, second = draw(tmp_path, 2)
    found = content([line(0, [first], prediction="001.png", named=[second]), line(1, [second])])
    assert found["questions"][0]["answers"][0] == {"text": "001.png", "score": 1.0, "pictures": [1]}


def test_a_result_without_probes_and_without_pictures_has_a_page():
    found = content([line(0, baselines={}, problem="too long", prediction=None, score=None)], comparisons={})
    assert found["questions"][0]["answers"] == [{"text": None, "score": None, "pictures": []}] * 3
    assert found["questions"][0]["problem"] == "too long"
    assert found["probed"] is False and found["few_images"] is None


def test_few_pictures_are_pointed_out():
    comparison = {
        "n": 9,
        "images": 4,
        "model": 1,
        "baseline": 0,
        "difference": 1,
        "standard_error": 0.1,
        "clearly_above": True,
    }
    assert content([line(0)], comparisons={"majority": comparison})["few_images"] == 4
    assert content([line(0)])["few_images"] is None  # 20


def test_a_picture_that_cannot_be_read_keeps_its_question_and_the_reason():
    found = content([line(0, ["gone.png"])])
    assert found["pictures"] == [{"name": "gone.png", "problem": "missing"}]


def test_where_not_all_fits_whole_pictures_are_drawn_and_the_page_says_how_many(tmp_path):
    lines = [
        one for i, path in enumerate(draw(tmp_path, 40)) for one in (line(2 * i, [path]), wrong(2 * i + 1, [path]))
    ]
    everything, some = content(lines), content(lines, most_bytes=20_000)
    assert len(everything["questions"]) == 80
    assert 10 <= len(some["questions"]) <= 50 and some["counts"]["listed"] == 80
    by_picture = [question["pictures"][0] for question in some["questions"]]
    assert all(by_picture.count(picture) == 2 for picture in by_picture)
    numbers = [int(question["id"].split("/")[1]) for question in some["questions"]]
    assert numbers == sorted(numbers) and numbers[-1] > len(numbers)  # drawn from all, in their order
    assert some == content(lines, most_bytes=20_000)


@pytest.mark.parametrize("most", [20_000, 60_000])
def test_the_file_keeps_its_limit(tmp_path, most):
    lines = [line(i, [path], question="看" * 100) for i, path in enumerate(draw(tmp_path, 200))]
    empty = write_report(result([]), tmp_path / "empty.json").stat().st_size
    file = write_report(result(lines), tmp_path / "result.json", most)
    assert most / 2 < file.stat().st_size - empty < most * 1.05


def test_the_report_is_beside_the_result_and_one_that_cannot_be_written_is_an_error(tmp_path):
    assert write_report(result([line(0)]), tmp_path / "out" / "result.json") == tmp_path / "out" / "result.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"result\.html: cannot be written"):
        write_report(result([line(0)]), tmp_path / "file" / "result.json")
