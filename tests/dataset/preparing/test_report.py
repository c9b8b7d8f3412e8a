"""The skip list, and the limit of unusable images."""

from __future__ import annotations

from PIL import Image

from tests.helpers.workplace import llava, picture


def test_what_cannot_be_used_is_listed_with_its_reason_and_the_rest_is_used(workplace):
    good = [{"image_id": f"{i}.png", "caption": "好"} for i in range(3)]
    hostile = ["gone.png", "broken.png", "large.png", "../secret.png", "half\ud800.png"]
    rejected = [{"image_id": "0.png", "caption": ""}, 17]
    workplace.source("zh", "ali", [*good, *({"image_id": name, "caption": "x"} for name in hostile), *rejected])
    for i in range(3):
        picture(workplace.folder / "zh" / f"{i}.png")
    picture(workplace.folder / "secret.png")
    (workplace.folder / "zh" / "broken.png").write_bytes(b"not a picture")
    Image.new("RGB", (30, 20)).save(workplace.folder / "zh" / "large.png")
    assert workplace.run("data.max_skipped=1", "data.max_pixels=500") == 0
    assert list(workplace.read("image_map")) == ["0.png", "1.png", "2.png"]
    assert workplace.skipped() == [
        ("gone.png", "missing"),
        ("secret.png", "escapes its folder"),
        ("half\ufffd.png", "the name is not valid text"),
        ("broken.png", "cannot be decoded: not an image in a known format"),
        ("large.png", "too large: 30 x 20 pixels, limit 500 in all"),
        ("zh.json", "record 8: the caption is empty"),
        ("zh.json", "record 9: is not an object but a number"),
    ]


def test_too_many_unusable_images_stop_the_run_and_nothing_is_written(workplace, capsys):
    records = [llava(f"{i}.png", "q", "a") for i in range(4)]
    workplace.source("en", "coco", records)
    picture(workplace.folder / "en" / "0.png")
    picture(workplace.folder / "en" / "1.png")
    (workplace.folder / "en" / "2.png").write_bytes(b"GIF89a")
    assert workplace.run("data.max_skipped=0.49") == 2
    assert workplace.bytes() == {}
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("error: 2 of 4 images (50.0%) cannot be used")
    assert "1 missing" in message and "1 cannot be decoded" in message and "data.max_skipped" in message
    assert workplace.run("data.max_skipped=0.5") == 0
    assert list(workplace.read("image_map")) == ["0.png", "1.png"]


def test_records_of_several_files_are_counted_in_their_own_file(workplace):
    workplace.source("one", "coco", [llava("a.png", "q", "1"), "bad"], "photos")
    workplace.source("two", "coco", [5, llava("a.png", "q", "2")], "photos")
    second = workplace.sources.pop()
    workplace.sources[0]["annotations"] = [workplace.sources[0]["annotations"], second["annotations"]]
    picture(workplace.folder / "photos" / "a.png")
    assert workplace.run() == 0
    assert [c["turns"][0]["a"] for c in workplace.read("annotations")["0"]] == [["1"], ["2"]]
    assert [(file, reason.partition(":")[0]) for file, reason in workplace.skipped()] == [
        ("one.json", "record 1"),
        ("two.json", "record 0"),
    ]
