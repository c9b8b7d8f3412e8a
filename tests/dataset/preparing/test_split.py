"""Which images are held out: by share, by list, linked ones together."""

from __future__ import annotations

from dataset.preparing.split import by_share, hold_out, image_groups
from tests.helpers.workplace import llava, picture


def test_a_share_is_held_out_by_image_and_stays_when_data_are_added():
    def held(count: int) -> set[str]:
        image_map = {f"{i}.jpg": {"ID": i, "path": ""} for i in range(count)}
        kept_back = hold_out(image_map, [], by_share(0.2, 0))
        return {name for name, entry in image_map.items() if entry["ID"] in kept_back}

    few, many = held(1000), held(3000)
    assert 540 < len(many) < 660
    assert few == {name for name in many if int(name[:-4]) < 1000}


def test_the_ends_of_the_share_and_another_seed():
    names = [[f"{i}.jpg"] for i in range(300)]
    assert not any(by_share(0.0, 0)(group) for group in names)
    assert all(by_share(1.0, 0)(group) for group in names)
    assert [by_share(0.5, 0)(g) for g in names] != [by_share(0.5, 1)(g) for g in names]
    assert [by_share(0.5, 0)([*g, "more.jpg"]) for g in names] == [by_share(0.5, 0)(g) for g in names]


def test_images_that_conversations_connect_fall_on_one_side():
    links = [[4, 1], [3, 5, 4], [6, 7]]
    assert image_groups(links, 9) == [0, 1, 2, 1, 1, 1, 6, 6, 8]
    image_map = {f"{i}.jpg": {"ID": i} for i in range(9)}
    assert hold_out(image_map, links, lambda names: "5.jpg" in names) == {1, 3, 4, 5}


def test_a_list_of_names_holds_images_out_under_any_of_their_names(workplace, capsys):
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png", "000000000009.jpg"):
        picture(workplace.folder / "en" / name)
    picture(workplace.folder / "fr" / "a.png", "blue")
    records = [llava(f"{n}.png", "q", n) for n in "abc"] + [llava("COCO_train2014_000000000009.jpg", "q", "nine")]
    records += [llava(["d.png", "e.png"], "q", "d and e"), llava("e.png", "q", "e")]
    workplace.source("en", "coco", records)
    workplace.source("fr", "coco", [llava("a.png", "q", "blue"), llava("b.png", "q", "b")], ["fr", "en"])
    workplace.data |= {"held_out": str(workplace.folder / "held.txt"), "images_per_conversation": 2}
    listed = "\ufeff" + "fr/a.png\r\nc.png\r\n\r\nCOCO_train2014_000000000009.jpg\nd.png\nunknown.png"
    (workplace.folder / "held.txt").write_text(listed, encoding="utf-8", newline="")
    assert workplace.run() == 0
    splits = {c["turns"][0]["a"][0]: c["split"] for g in workplace.read("annotations").values() for c in g}
    held = {answer for answer, split in splits.items() if split == "held_out"}
    assert held == {"blue", "c", "nine", "d and e", "e"} and len(splits) == 7

    (workplace.folder / "held.txt").write_text("a.png\n", encoding="utf-8")  # as the records write it: both
    assert workplace.run() == 0
    splits = {c["turns"][0]["a"][0]: c["split"] for g in workplace.read("annotations").values() for c in g}
    assert {answer for answer, split in splits.items() if split == "held_out"} == {"a", "blue"}

    before = workplace.bytes()
    (workplace.folder / "held.txt").write_text("x.png\ny.png\n", encoding="utf-8")
    assert workplace.run() == 2
    assert "none of the 2 names" in capsys.readouterr().err and workplace.bytes() == before


def test_a_share_from_the_config_splits_by_image(workplace):
    records = [llava(f"{i % 30}.png", f"q{i}", "a") for i in range(90)]
    workplace.source("en", "coco", records)
    for i in range(30):
        picture(workplace.folder / "en" / f"{i}.png")
    assert workplace.run("data.held_out=0.3") == 0
    splits = [{c["split"] for c in group} for group in workplace.read("annotations").values()]
    assert all(len(split) == 1 for split in splits)
    assert 3 <= splits.count({"held_out"}) <= 16
