"""Which images are for validation and test: by share, by list, linked ones together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dataset.preparing.sources import Conversations
from dataset.preparing.split import by_share, choose_splits, image_groups, split_groups
from settings import Data
from tests.helpers.workplace import llava, picture


def images(count: int) -> dict:
    return {f"{i}.jpg": {"ID": i, "path": ""} for i in range(count)}


def shares(validation: float, test: float, count: int = 1000) -> dict[str, set[int]]:
    files = {name: Path(f"{name}.json") for name in ("image_map", "annotations", "skipped")}
    data = Data(sources=[], **files, validation=validation, test=test)
    chosen, _ = choose_splits(data, [], images(count), Conversations())
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
    choices = {
        "test": lambda names: "5.jpg" in names,
        "validation": lambda names: not {"3.jpg", "7.jpg"}.isdisjoint(names),
    }
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
    listed = "\ufeff" + "fr/a.png\r\nc.png\r\n\r\nCOCO_train2014_000000000009.jpg\nd.png"
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
    assert "data.test: 2 of the 2 names in" in capsys.readouterr().err and workplace.bytes() == before


def test_a_share_from_the_config_splits_by_image(workplace):
    records = [llava(f"{i % 30}.png", f"q{i}", "a") for i in range(90)]
    workplace.source("en", "coco", records)
    for i in range(30):
        picture(workplace.folder / "en" / f"{i}.png")
    assert workplace.run("data.validation=0.2", "data.test=0.3") == 0
    splits = [{c["split"] for c in group} for group in workplace.read("annotations").values()]
    assert all(len(split) == 1 for split in splits)
    assert 3 <= splits.count({"test"}) <= 16 and 1 <= splits.count({"validation"}) <= 12


# ---------------------------------------------------------------------------------------------- lists of names


@pytest.fixture
def photos(workplace):
    """Ten images, two of them of one name in two folders, one of them damaged; and a function that splits by lists."""
    names = [f"{i:03}.jpg" for i in range(6)] + ["cats/7.png", "dogs/7.png", "photo.v2.jpeg", "bad.png"]
    for name in names:
        picture(workplace.folder / "en" / name)
    (workplace.folder / "en" / "bad.png").write_bytes(b"\x89PNG")
    workplace.source("en", "coco", [llava(name, "q", name) for name in names])
    workplace.data["max_skipped"] = 0.5

    def split(
        *, test: Sequence[str], validation: Sequence[str] = (), options: Sequence[str] = ()
    ) -> dict[str, set[str]]:
        for name, listed in (("test", test), ("validation", validation)):
            (workplace.folder / f"{name}.txt").write_text("\n".join(listed), encoding="utf-8")
            workplace.data[name] = str(workplace.folder / f"{name}.txt")
        if workplace.run(*options):
            return {}
        talks = [talk for group in workplace.read("annotations").values() for talk in group]
        found: dict[str, set[str]] = {name: set() for name in ("train", "validation", "test")}
        for talk in talks:
            found[talk["split"]].add(talk["turns"][0]["a"][0])
        return found

    return split


def test_both_lists_make_three_splits(photos):
    found = photos(test=["000.jpg", "001.jpg"], validation=["002.jpg"])
    assert found["test"] == {"000.jpg", "001.jpg"} and found["validation"] == {"002.jpg"}
    assert len(found["train"]) == 6


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("000", "000.jpg"),  # as many published lists are
        ("000.png", "000.jpg"),  # converted since
        ("val2017/000.jpg", "000.jpg"),
        ("en/000", "000.jpg"),
        ("a\\b\\000.jpg", "000.jpg"),
        ("photo.v2", "photo.v2.jpeg"),  # .v2 is no extension
        ("cats/7", "cats/7.png"),
    ],
)
def test_a_name_with_other_folders_or_without_extension_matches_where_it_means_one_image(photos, name, meant):
    assert photos(test=[name])["test"] == {meant}


def test_a_list_of_which_one_name_in_three_is_right_is_refused_with_the_nearest_name(photos, workplace, capsys):
    assert photos(test=["000.jpg"])["test"] == {"000.jpg"}
    before = workplace.bytes()
    assert photos(test=["000.jpg", "photo.v3", "nothing.jpg"]) == {}
    error = capsys.readouterr().err
    assert f"data.test: 2 of the 3 names in {workplace.folder / 'test.txt'} cannot be matched to an image: " in error
    assert "photo.v3 (unknown); nothing.jpg (unknown); nearest to photo.v3: photo.v2.jpeg; " in error
    assert "data.allow_unmatched: true" in error and error.count("\n") == 1 and workplace.bytes() == before

    found = photos(test=["000.jpg", "photo.v3", "nothing.jpg"], options=("data.allow_unmatched=true",))
    assert found["test"] == {"000.jpg"}
    assert "data.test: 2 of the 3 names in" in capsys.readouterr().out


def test_a_list_that_matches_nothing_is_refused_whatever_is_allowed(photos, capsys):
    assert photos(test=["x.png", "y.png"], options=("data.allow_unmatched=true",)) == {}
    assert "2 of the 2 names" in capsys.readouterr().err


def test_a_name_that_means_two_images_is_no_match(photos, capsys):
    assert photos(test=["7.png"]) == {}
    error = capsys.readouterr().err
    assert "7.png (means 2 images, such as " in error and "cats/7.png and " in error and "dogs/7.png)" in error
    assert photos(test=["dogs/7.png"])["test"] == {"dogs/7.png"}


def test_a_listed_image_that_cannot_be_used_is_no_mistake_in_the_list(photos, capsys):
    found = photos(test=["bad.png", "000.jpg"])
    assert found["test"] == {"000.jpg"} and "matched" not in "".join(capsys.readouterr())


def test_an_image_in_both_lists_is_refused(photos, capsys):
    assert photos(test=["000.jpg", "001"], validation=["001.jpg"]) == {}
    assert "data.test and data.validation: images that both lists name: 1, e.g. 001.jpg" in capsys.readouterr().err


def test_images_have_the_split_that_their_records_tell_and_the_share_is_of_the_others(workplace, capsys):
    rows = [{"image": f"{n}.png", "question": "?", "answer": "yes", "split": s} for n, s in enumerate(["val", "test"])]
    rows += [{"image": "2.png", "question": "?", "answer": "yes", "split": s} for s in ("train", "test", "val")]
    rows += [{"image": f"{n}.png", "question": "?", "answer": "yes", "split": "train"} for n in range(3, 10)]
    rows += [
        {"question": "1+1?", "answer": "2", "split": "test"},
        {"image": "10.png", "question": "?", "answer": "yes"},
    ]
    workplace.source("table", "table", rows)
    for n in range(11):
        picture(workplace.folder / "table" / f"{n}.png")
    workplace.data |= {"test": 0.99, "validation": 0.0}
    assert workplace.run() == 0
    assert "splits: 10 images have the split that their records tell" in capsys.readouterr().out
    found = {key: {c["split"] for c in group} for key, group in workplace.read("annotations").items()}
    assert found == {
        "0": {"validation"},
        "1": {"test"},
        "2": {"test"},
        **{str(n): {"train"} for n in range(3, 10)},
        "10": {"test"},
        "text": {"test"},
    }
    names = workplace.folder / "names.txt"
    names.write_text("5.png\n")
    assert workplace.run(f"data.test={names}") == 0  # a list decides for its split
    found = {key: {c["split"] for c in group} for key, group in workplace.read("annotations").items()}
    assert [key for key, splits in found.items() if splits == {"test"}] == ["5", "text"]


@pytest.mark.parametrize("told", [("train", "test"), ("train",)])
def test_the_share_of_a_split_that_no_record_tells_is_taken_of_train(workplace, told):
    rows = [{"image": f"{n}.png", "question": "?", "answer": "yes", "split": told[n % len(told)]} for n in range(40)]
    workplace.source("table", "table", rows)
    for n in range(40):
        picture(workplace.folder / "table" / f"{n}.png")
    assert workplace.run("data.validation=0.5", "data.test=0.1") == 0
    found = [group[0]["split"] for group in workplace.read("annotations").values()]
    if "test" in told:  # and none of the images that are for the test by their records
        assert found[1::2] == ["test"] * 20 and 4 <= found.count("validation") <= 16
    else:
        assert 1 <= found.count("test") <= 9 and 11 <= found.count("validation") <= 29
