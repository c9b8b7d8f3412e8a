"""Which images are for validation and test: by share, by list, linked ones together."""

from __future__ import annotations

from pathlib import Path

from dataset.preparing.split import by_share, choose_splits, image_groups, split_groups
from settings import Data
from tests.helpers.workplace import llava, picture


def images(count: int) -> dict:
    return {f"{i}.jpg": {"ID": i, "path": ""} for i in range(count)}


def shares(validation: float, test: float, count: int = 1000) -> dict[str, set[int]]:
    files = {name: Path(f"{name}.json") for name in ("image_map", "annotations", "skipped")}
    data = Data(sources=[], **files, validation=validation, test=test)
    chosen = choose_splits(data, [], images(count), [])
    return {split: {image for image, its in chosen.items() if its == split} for split in ("validation", "test")}


def test_a_share_of_the_images_stays_in_its_split_when_data_are_added():
    few, many = shares(0.1, 0.2), shares(0.1, 0.2, count=3000)
    assert 540 < len(many["test"]) < 660 and 250 < len(many["validation"]) < 350
    for split in ("validation", "test"):
        assert few[split] == {image for image in many[split] if image < 1000}
    assert many["test"].isdisjoint(many["validation"])


def test_another_share_of_one_split_moves_no_image_of_the_other():
    assert shares(0.1, 0.2)["test"] == shares(0.5, 0.2)["test"]
    assert shares(0.1, 0.2)["validation"] == shares(0.1, 0.6)["validation"]


def test_the_ends_of_the_share_and_another_seed():
    names = [[f"{i}.jpg"] for i in range(300)]
    assert not any(by_share(0.0, 0.0, 0)(group) or by_share(1.0, 1.0, 0)(group) for group in names)
    assert all(by_share(0.0, 1.0, 0)(group) for group in names)
    first = [by_share(0.0, 0.5, 0)(group) for group in names]
    assert first != [by_share(0.0, 0.5, 1)(group) for group in names]
    assert first == [by_share(0.0, 0.5, 0)([*group, "more.jpg"]) for group in names]
    assert first == [not by_share(0.5, 1.0, 0)(group) for group in names]


def test_images_that_conversations_connect_are_in_one_split_and_the_first_choice_has_them():
    links = [[4, 1], [3, 5, 4], [6, 7]]
    assert image_groups(links, 9) == [0, 1, 2, 1, 1, 1, 6, 6, 8]
    choices = {"test": lambda names: "5.jpg" in names, "validation": lambda names: {"3.jpg", "7.jpg"} & set(names)}
    assert split_groups(images(9), links, choices) == {
        **dict.fromkeys([1, 3, 4, 5], "test"),
        **dict.fromkeys([6, 7], "validation"),
    }


def test_a_list_of_names_holds_images_out_under_any_of_their_names(workplace, capsys):
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png", "000000000009.jpg"):
        picture(workplace.folder / "en" / name)
    picture(workplace.folder / "fr" / "a.png", "blue")
    records = [llava(f"{n}.png", "q", n) for n in "abc"] + [llava("COCO_train2014_000000000009.jpg", "q", "nine")]
    records += [llava(["d.png", "e.png"], "q", "d and e"), llava("e.png", "q", "e")]
    workplace.source("en", "coco", records)
    workplace.source("fr", "coco", [llava("a.png", "q", "blue"), llava("b.png", "q", "b")], ["fr", "en"])
    workplace.data |= {"test": str(workplace.folder / "held.txt"), "images_per_conversation": 2}
    listed = "\ufeff" + "fr/a.png\r\nc.png\r\n\r\nCOCO_train2014_000000000009.jpg\nd.png\nunknown.png"
    (workplace.folder / "held.txt").write_text(listed, encoding="utf-8", newline="")
    assert workplace.run() == 0
    splits = {c["turns"][0]["a"][0]: c["split"] for g in workplace.read("annotations").values() for c in g}
    held = {answer for answer, split in splits.items() if split == "test"}
    assert held == {"blue", "c", "nine", "d and e", "e"} and len(splits) == 7

    (workplace.folder / "held.txt").write_text("a.png\n", encoding="utf-8")  # as the records write it: both
    assert workplace.run() == 0
    splits = {c["turns"][0]["a"][0]: c["split"] for g in workplace.read("annotations").values() for c in g}
    assert {answer for answer, split in splits.items() if split == "test"} == {"a", "blue"}

    before = workplace.bytes()
    (workplace.folder / "held.txt").write_text("x.png\ny.png\n", encoding="utf-8")
    assert workplace.run() == 2
    assert "none of the 2 names" in capsys.readouterr().err and workplace.bytes() == before


def test_a_share_from_the_config_splits_by_image(workplace):
    records = [llava(f"{i % 30}.png", f"q{i}", "a") for i in range(90)]
    workplace.source("en", "coco", records)
    for i in range(30):
        picture(workplace.folder / "en" / f"{i}.png")
    assert workplace.run("data.validation=0.2", "data.test=0.3") == 0
    splits = [{c["split"] for c in group} for group in workplace.read("annotations").values()]
    assert all(len(split) == 1 for split in splits)
    assert 3 <= splits.count({"test"}) <= 16 and 1 <= splits.count({"validation"}) <= 12
