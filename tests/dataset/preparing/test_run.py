"""The whole preparation, on small sets and on real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.workplace import llava, picture


def test_two_sources_become_three_files(workplace, capsys):
    workplace.source(
        "zh", "ali", [{"image_id": "a.png", "caption": ["一只猫"]}, {"image_id": "b.png", "caption": "一只狗"}]
    )
    workplace.source("en", "coco", [llava("c.png", "<image>\nWhat?", "A cat."), llava(None, "1+1?", "2", "2+2?", "4")])
    for name in ("zh/a.png", "zh/b.png", "en/c.png"):
        picture(workplace.folder / name)
    assert workplace.run() == 0
    images = workplace.read("image_map")
    assert list(images) == ["a.png", "b.png", "c.png"]
    assert [entry["ID"] for entry in images.values()] == [0, 1, 2]
    assert images["c.png"]["path"] == (workplace.folder / "en" / "c.png").as_posix()
    annotations = workplace.read("annotations")
    assert list(annotations) == ["0", "1", "2", "text"]
    assert annotations["1"][0]["turns"][0]["a"] == ["一只狗"]
    assert annotations["2"][0]["source"] == "en"
    assert workplace.read("skipped") == []
    text = (workplace.folder / "out" / "annotations.json").read_bytes()
    assert "一只狗".encode() in text and b"\r" not in text and text.startswith(b'{\n  "0": [\n')
    table = [line.split() for line in capsys.readouterr().out.splitlines()[:7]]
    assert table == [
        ["records", "images", "conversations", "turns", "skipped"],
        ["zh", "2", "2", "2", "2", "0"],
        ["en", "2", "1", "2", "3", "0"],
        ["all", "4", "3", "4", "5", "0"],
        ["train", "3", "4", "5"],
        ["validation", "0", "0", "0"],
        ["test", "0", "0", "0"],
    ]


def test_the_same_input_and_seed_give_the_same_bytes_on_any_number_of_processes(workplace):
    records = [{"image_id": f"{i}.png", "caption": list("一二三四")} for i in range(40)]
    for i in range(40):
        picture(workplace.folder / "zh" / f"{i}.png")
    workplace.source("zh", "ali", records)
    assert workplace.run("data.test=0.3") == 0
    first = workplace.bytes()
    assert set(first) == {"annotations.json", "image_map.json", "skipped.json"}
    turns = [c["turns"] for c in sum(workplace.read("annotations").values(), [])]
    assert workplace.run("data.test=0.3", "data.workers=3") == 0
    assert workplace.bytes() == first
    assert workplace.run("data.test=0.3", "data.seed=1") == 0
    assert workplace.bytes()["image_map.json"] == first["image_map.json"]
    assert [c["turns"] for c in sum(workplace.read("annotations").values(), [])] != turns


def real_source(name: str, form: str, file: Path, images: Path) -> dict:
    return {"name": name, "format": form, "annotations": str(file), "images": str(images)}


def test_real_annotations_whose_photos_are_absent_are_refused(workplace, shared_data, capsys):
    folder = shared_data / "annotations"
    workplace.sources = [
        real_source("llava", "coco", folder / "llava_instruct_100.json", shared_data / "photos"),
        real_source("ai", "ali", folder / "ai_challenger_caption_first2.json", shared_data / "photos"),
    ]
    assert workplace.run() == 2
    assert "102 of 102 images (100.0%) cannot be used" in capsys.readouterr().err and workplace.bytes() == {}
    assert workplace.run("data.max_skipped=1") == 2
    message = capsys.readouterr().err
    assert "102 of 102 records (100.0%) cannot be used, nothing is left to write: 102 x an image of the" in message
    assert workplace.bytes() == {}


def test_real_photos_with_questions_in_english_and_captions_in_chinese(workplace, shared_data):
    photos, folder = shared_data / "photos", shared_data / "annotations"
    workplace.sources = [
        real_source("vqa", "coco", folder / "photos_conversations.json", photos),
        real_source("captions", "ali", folder / "photos_captions_zh.json", photos),
    ]
    assert workplace.run("data.keep_all_captions=true") == 0
    images = workplace.read("image_map")
    assert {name: entry["ID"] for name, entry in images.items()} == {
        "vg_4.jpg": 0,
        "vg_5.jpg": 1,
        "COCO_train2014_000000458752.jpg": 2,
        "gqa_n578564.jpg": 3,
        "gqa_n166008.jpg": 4,
        "000000000785.jpg": 5,
    }
    assert workplace.read("skipped") == []
    annotations = workplace.read("annotations")
    assert [c["source"] for c in annotations["0"]] == ["vqa", "captions"]
    assert [len(c["turns"]) for c in annotations["0"]] == [5, 1]
    assert [c["language"] for c in annotations["0"]] == ["en", "zh"]
    assert len(annotations["0"][1]["turns"][0]["a"]) == 5
    assert [c["turns"][0]["a"] for c in annotations["2"]] == [["net"], ["pitcher"], ["orange"]]
    assert annotations["2"][1]["turns"][0]["q"] == "What position is this man playing?\n<|extra_0|>"


SHOWN = ("<|extra_0|>\nWhat is shown?", "A shape.")
# Inputs of public bug reports: the first conversations that must come of them, and the system text; or why none does.
CASES = {
    "02_images_key": ([("<|extra_0|>What is shown?", "A shape.")], 8, ""),
    "03_messages_role_content": ([("<|extra_0|>What is shown?", "A shape.")], 8, ""),
    "04_system_turn": ([SHOWN], 8, "Answer briefly."),
    "07_image_token_no_image": (
        "8 of 8 records (100.0%) cannot be used, data.max_skipped allows 5.0%: "
        "8 x a question has <image>, and the record names no image (record 0 of raw.json)"
    ),
    "22_consecutive_roles": (
        [("<|extra_0|>\nI will ask about the left object first.\nWhat color is it?", "red\nIt is a red circle.")],
        2,
        "",
    ),
    "23_image_in_answer": (
        [("<|extra_0|>\nParse the page as Markdown.", "Figure 3:\n![fig]()\nSee for more.")],
        1,
        "",
    ),
    "52_content_parts": ([SHOWN], 4, ""),
    "53_half_records_rejected": ([SHOWN], 8, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_inputs_of_public_bug_reports_end_right(workplace, shared_data, capsys, case):
    folder = shared_data.parent / "cases" / case
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    workplace.sources = [real_source("mine", "coco", folder / "raw.json", folder / "images")]
    expected = CASES[case]
    if isinstance(expected, str):
        assert workplace.run() == 2
        assert expected in capsys.readouterr().err and workplace.bytes() == {}
        return
    turns, number, system = expected
    assert workplace.run() == 0
    assert f"pictures  {number} conversations show pictures, 0 show none" in capsys.readouterr().out.splitlines()
    conversations = [c for group in workplace.read("annotations").values() for c in group]
    assert len(conversations) == number
    assert [(turn["q"], *turn["a"]) for turn in conversations[0]["turns"]] == turns
    assert conversations[0].get("system", "") == system and workplace.read("skipped") == []
