"""The demo's little world: right answers, fair questions, and test and validation splits that training never sees."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from demo import scenes
from demo.scenes import COLORS, PLACES, SHAPES, SIZES, Thing, ask, caption, draw_scene, fold_of, render, write_raw

REPO = Path(__file__).resolve().parent.parent.parent

ONE = (Thing("star", "red", "small", "center"),)
THREE = (
    Thing("circle", "red", "large", "top left"),
    Thing("circle", "blue", "small", "center"),
    Thing("square", "blue", "large", "bottom right"),
)


def answers(scene, language: str, count: int = 4000) -> dict[str, tuple[str, str]]:
    """Question -> (kind, answer) of many random questions; one question has one answer only."""
    rng, found = random.Random(0), {}
    for _ in range(count):
        qa = ask(scene, language, rng)
        assert found.setdefault(qa.question, (qa.kind, qa.answer)) == (qa.kind, qa.answer)
    return found


def test_every_kind_of_question_has_the_answer_that_the_scene_gives():
    english = answers(THREE, "en")
    expected = {
        "What color is the square?": ("color", "blue"),
        "What color is the object at the top left?": ("color", "red"),
        "What shape is the red object?": ("shape", "circle"),
        "What shape is the object in the center?": ("shape", "circle"),
        "Is the square large or small?": ("size", "large"),
        "Is the red object large or small?": ("size", "large"),
        "Is the object in the center large or small?": ("size", "small"),
        "Where is the square?": ("place", "bottom right"),
        "Where is the red object?": ("place", "top left"),
        "How many objects are there?": ("count", "3"),
        "How many circles are there?": ("count", "2"),
        "How many stars are there?": ("count", "0"),
        "How many blue objects are there?": ("count", "2"),
        "How many green objects are there?": ("count", "0"),
        "Is there a red circle?": ("yes/no", "yes"),
        "Is there a red square?": ("yes/no", "no"),
        "Is there a triangle?": ("yes/no", "no"),
        "Is there a square?": ("yes/no", "yes"),
        "Is the square blue?": ("yes/no", "yes"),
        "Is the square red?": ("yes/no", "no"),
    }
    assert {question: english.get(question) for question in expected} == expected


def test_every_kind_of_question_has_the_answer_that_the_scene_gives_in_chinese():
    chinese = answers(THREE, "zh")
    expected = {
        "正方形是什么颜色？": ("color", "蓝色"),
        "左上角的图形是什么颜色？": ("color", "红色"),
        "红色的图形是什么形状？": ("shape", "圆形"),
        "中央的图形是大还是小？": ("size", "小"),
        "正方形在哪里？": ("place", "右下角"),
        "图中有几个图形？": ("count", "3"),
        "图中有几个圆形？": ("count", "2"),
        "图中有几个绿色的图形？": ("count", "0"),
        "图中有红色的圆形吗？": ("yes/no", "有"),
        "图中有红色的正方形吗？": ("yes/no", "没有"),
        "图中有三角形吗？": ("yes/no", "没有"),
        "正方形是蓝色的吗？": ("yes/no", "是"),
        "正方形是红色的吗？": ("yes/no", "不是"),
    }
    assert {question: chinese.get(question) for question in expected} == expected


def test_what_two_objects_share_is_not_used_to_name_one():
    for question in answers(THREE, "en"):
        for name in ("the circle", "the blue object"):
            assert name not in question, question
    for question in answers(THREE, "zh"):
        assert not question.startswith(("圆形", "蓝色的图形")), question


def test_captions_name_everything_in_reading_order():
    assert caption(THREE[:2], "en") == (
        "There is a large red circle at the top left and a small blue circle in the center."
    )
    assert caption(THREE[:2], "en", 1) == (
        "At the top left is a large red circle; in the center is a small blue circle."
    )
    assert caption(ONE, "zh") == "图中有一个小的红色五角星在中央。"
    assert caption(THREE[1:], "zh", 1) == "中央有一个小的蓝色圆形，右下角有一个大的蓝色正方形。"


def test_no_answer_is_a_safe_guess():
    rng = random.Random(1)
    kinds, yes = Counter(), Counter()
    for _ in range(12_000):
        language = rng.choice(("en", "zh"))
        qa = ask(draw_scene(rng), language, rng)
        kinds[qa.kind] += 1
        if qa.kind == "yes/no":
            yes[qa.answer in ("yes", "是", "有")] += 1
    assert set(kinds) == {"color", "shape", "size", "place", "count", "yes/no"}
    assert min(kinds.values()) > 0.6 * max(kinds.values())
    assert 0.46 < yes[True] / yes.total() < 0.54


# ---------------------------------------------------------------------------------------------- scenes and pictures


def test_scenes_stay_in_the_folds_they_were_asked_for():
    rng = random.Random(2)
    drawn = [draw_scene(rng, most=3, folds=(0, 3)) for _ in range(300)]
    assert {fold_of(scene) for scene in drawn} == {0, 3}
    assert Counter(len(scene) for scene in drawn).keys() == {1, 2, 3}
    for scene in drawn:
        places = [thing.place for thing in scene]
        assert places == sorted(places, key=list(PLACES).index) and len(set(places)) == len(places)
        assert all(t.shape in SHAPES and t.color in COLORS and t.size in SIZES for t in scene)
    assert {len(draw_scene(rng, most=1)) for _ in range(50)} == {1}


def test_a_scene_is_in_the_same_fold_on_every_machine():
    assert [fold_of(scene) for scene in (ONE, THREE, THREE[:2])] == [4, 6, 0]


def test_the_same_seed_draws_the_same_picture_and_another_one_differs():
    def pixels(seed: int) -> np.ndarray:
        return np.asarray(render(THREE, random.Random(seed))).astype(int)

    assert pixels(0).shape == (112, 112, 3)
    assert np.array_equal(pixels(0), pixels(0))
    difference = np.abs(pixels(0) - pixels(1))
    assert 0 < (difference.max(-1) > 100).mean() < 0.2  # edges moved
    assert 0 < difference[56, 0].max() <= 40  # the paper has another shade


def test_objects_move_about_their_place_and_change_in_size():
    middles, areas = [], []
    for seed in range(12):
        drawn = np.asarray(render(ONE, random.Random(seed))).astype(int)
        inked = np.abs(drawn - drawn[0, 0]).max(-1) > 60  # [112, 112]
        middles.append([axis.mean() for axis in np.nonzero(inked)])
        areas.append(inked.sum())
    spread = np.ptp(middles, axis=0)  # rows, columns, in pixels
    assert (spread > 2).all() and (np.abs(np.mean(middles, axis=0) - 56) < 2).all()
    assert max(areas) > 1.2 * min(areas)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_an_object_is_drawn_in_its_colour_at_its_place_and_in_its_size(shape, color):
    share = {}
    for size in SIZES:
        scene = (Thing(shape, color, size, "bottom left"),)
        drawn = np.asarray(render(scene, random.Random(3))).astype(int)
        assert np.abs(drawn[88, 24] - scenes.RGB[color]).max() <= 14
        inked = np.abs(drawn - drawn[0, 0]).max(-1) > 60  # [112, 112]
        rows, columns = np.nonzero(inked)
        assert rows.min() >= 60 and columns.max() <= 52
        share[size] = inked.mean()
    assert share["large"] > 2 * share["small"] > 0


# ---------------------------------------------------------------------------------------------- raw data


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_raw(folder, train=120, validation=16, test=40, progress=False)
    return folder


def records(folder: Path) -> dict[str, list[dict]]:
    """The records of each picture, of both sources, by the picture's name."""
    by_name: dict[str, list[dict]] = {}
    for file, key in (("ali_annotations.json", "image_id"), ("coco_conversations.json", "image")):
        for record in json.loads((folder / file).read_text(encoding="utf-8")):
            by_name.setdefault(record[key], []).append(record)
    return by_name


def listed(folder: Path, split: str) -> list[str]:
    return (folder / f"{split}.txt").read_text(encoding="utf-8").splitlines()


def drawn_scenes(monkeypatch, folder: Path, **options) -> dict[str, scenes.Scene]:
    """The scene of every picture that write_raw draws, by the picture's name."""
    seen: list = []
    monkeypatch.setattr(scenes, "render", lambda scene, rng: (seen.append(scene), render(scene, rng))[1])
    write_raw(folder, progress=False, **options)
    written = list(records(folder))  # first all of one source, then all of the other
    ali, coco = ([name for name in written if name.startswith(source)] for source in ("ali", "coco"))
    names = [name for pair in zip(ali, coco, strict=True) for name in pair]  # they alternate
    return dict(zip(names, seen, strict=True))


def test_half_of_the_pictures_go_to_each_source_and_all_are_there(raw):
    validation, test = (listed(raw, split) for split in ("validation", "test"))
    assert (len(set(validation)), len(set(test)), len(set(validation + test))) == (16, 40, 56)
    for source in ("ali", "coco"):
        files = sorted(path.name for path in (raw / f"{source}_images").iterdir())
        assert files == sorted(name for name in records(raw) if name.startswith(source))
        assert len(files) == 88 and len(set(files) & set(validation)) == 8 and len(set(files) & set(test)) == 20
    assert len(records(raw)) == 176


def test_no_scene_is_in_two_splits(tmp_path, monkeypatch):
    by_name = drawn_scenes(monkeypatch, tmp_path, train=200, validation=60, test=100)
    validation, test = ([by_name[name] for name in listed(tmp_path, split)] for split in ("validation", "test"))
    held_back = {*listed(tmp_path, "validation"), *listed(tmp_path, "test")}
    trained = [scene for name, scene in by_name.items() if name not in held_back]
    assert (len(set(validation)), len(set(test)), len(trained)) == (60, 100, 200)
    assert {fold_of(scene) for scene in test} == {0} and {fold_of(scene) for scene in validation} == {1}
    assert {fold_of(scene) for scene in trained} == set(range(2, 10))


def test_the_answers_on_file_are_those_of_the_scene_in_the_picture(tmp_path, monkeypatch):
    by_name = drawn_scenes(monkeypatch, tmp_path, train=4, validation=4, test=20)
    for name, group in records(tmp_path).items():
        scene = by_name[name]
        first, *group = group
        if name.startswith("ali"):
            assert first["caption"] == [caption(scene, "zh", 0), caption(scene, "zh", 1)]
        else:
            question, answer = first["conversations"]
            assert question["value"].removeprefix("<image>\n") in scenes.DESCRIBE["en"]
            assert answer["value"] == caption(scene, "en")
        right = answers(scene, "zh" if name.startswith("ali") else "en")
        for record in group:
            texts = [message["value"].removeprefix("<image>\n") for message in record["conversations"]]
            for question, answer in zip(texts[::2], texts[1::2], strict=True):
                assert right[question][1] == answer, (name, question)


def test_records_are_in_the_form_of_their_source(raw):
    for name, group in records(raw).items():
        described, *group = group
        if name.startswith("ali"):
            assert set(described) == {"url", "image_id", "caption"} and len(described["caption"]) == 2
        else:
            assert set(described) == {"id", "image", "conversations"}
        keys = {"id", "image", "conversations"} if name.startswith("coco") else {"url", "image_id", "conversations"}
        assert all(set(record) == keys for record in group)
        # Five conversations: most questions have no answers before them that could give theirs away.
        assert [len(record["conversations"]) for record in group] == [6, 4, 2, 2, 2]
        questions = set()
        for messages in (record["conversations"] for record in group):
            assert [message["from"] for message in messages] == ["human", "gpt"] * (len(messages) // 2)
            pictures = [message["value"].startswith("<image>\n") for message in messages]
            assert pictures == [name.startswith("coco")] + [False] * (len(messages) - 1)
            questions |= {message["value"].removeprefix("<image>\n") for message in messages[::2]}
        assert len(questions) == 8
        chinese = [bool(re.search("[\u4e00-\u9fff]", question)) for question in questions]
        assert set(chinese) == {name.startswith("ali")}


def test_yes_and_no_come_equally_often_on_file(raw):
    given = Counter(
        message["value"]
        for group in records(raw).values()
        for record in group
        for message in record.get("conversations", [])
        if message["from"] == "gpt"
    )
    yes, no = (sum(given[word] for word in words) for words in (("yes", "是", "有"), ("no", "不是", "没有")))
    assert yes + no > 150 and 0.4 < yes / (yes + no) < 0.6


def test_the_same_seed_writes_the_same_bytes(raw, tmp_path):
    def content(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    command = [sys.executable, "-m", "demo.scenes", "--train", "120", "--validation", "16", "--test", "40"]
    command += ["--no-progress", "--output"]
    done = subprocess.run([*command, str(tmp_path / "again")], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert content(tmp_path / "again") == content(raw)
    write_raw(tmp_path / "other", train=120, validation=16, test=40, seed=1, progress=False)
    other = content(tmp_path / "other")
    assert other.keys() == content(raw).keys()
    assert sum(other[name] == data for name, data in content(raw).items()) <= 2  # the lists of names


def test_test_pictures_do_not_depend_on_how_many_are_trained_and_chosen_on(raw, tmp_path):
    write_raw(tmp_path, train=2, validation=0, test=40, progress=False)
    assert listed(tmp_path, "test") == listed(raw, "test")
    for name in listed(raw, "test"):
        assert records(tmp_path)[name] == records(raw)[name]


@pytest.mark.parametrize("wrong", [["--test", "20001"], ["--train", "-1"], ["--validation", "-1"]])
def test_impossible_numbers_are_refused(tmp_path, monkeypatch, capsys, wrong):
    monkeypatch.setattr(sys, "argv", ["scenes", "--output", str(tmp_path / "x"), *wrong])
    with pytest.raises(SystemExit):
        scenes.main()
    assert "--validation and --test 0 to 20000" in capsys.readouterr().err and not (tmp_path / "x").exists()
