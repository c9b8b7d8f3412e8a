"""The skip list, the limits of unusable images and records, and the reasons that are printed."""

from __future__ import annotations

import pytest
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
    assert "1 x missing (3.png of source en); 1 x cannot be decoded: " in message and "data.max_skipped" in message
    assert workplace.run("data.max_skipped=0.5") == 0
    assert list(workplace.read("image_map")) == ["0.png", "1.png"]


def test_records_of_several_files_are_counted_in_their_own_file(workplace):
    workplace.source("one", "coco", [llava("a.png", "q", "1"), "bad"], "photos")
    workplace.source("two", "coco", [5, llava("a.png", "q", "2")], "photos")
    second = workplace.sources.pop()
    workplace.sources[0]["annotations"] = [workplace.sources[0]["annotations"], second["annotations"]]
    picture(workplace.folder / "photos" / "a.png")
    assert workplace.run("data.max_skipped=0.5") == 0
    assert [c["turns"][0]["a"] for c in workplace.read("annotations")["0"]] == [["1"], ["2"]]
    assert [(file, reason.partition(":")[0]) for file, reason in workplace.skipped()] == [
        ("one.json", "record 1"),
        ("two.json", "record 0"),
    ]


def half_bad() -> list[dict]:
    good = [llava("0.png", "<image>?", str(i)) for i in range(4)]
    return [*good, llava("0.png", "<image>?", ""), llava(None, "<image>?", "a"), llava("0.png", "q", ""), {"image": 5}]


def test_too_many_unusable_records_stop_the_run_and_the_earlier_files_stay(workplace, capsys):
    workplace.source("en", "llava", half_bad())
    picture(workplace.folder / "en" / "0.png")
    assert workplace.run("data.max_skipped=0.5") == 0
    before = workplace.bytes()
    capsys.readouterr()
    assert workplace.run("data.max_skipped=0.49") == 2
    message = capsys.readouterr().err
    assert message.startswith(
        "error: 4 of 8 records (50.0%) cannot be used, data.max_skipped allows 49.0%: "
        "2 x has no question with an answer (turn with an empty answer dropped) (record 4 of en.json); "
        "1 x a question has <image>, and the record names no image (record 5 of en.json); 1 x "
    )
    assert message.count("\n") == 1 and message.endswith("or raise data.max_skipped\n")
    assert workplace.bytes() == before


def test_records_whose_image_cannot_be_used_count_too(workplace, capsys):
    """One bad image of twenty is within the limit; nine of ten records are about it."""
    records = [llava("bad.png", "<image>?", str(i)) for i in range(190)]
    workplace.source("en", "llava", [*records, *(llava(f"{i}.png", "<image>?", "a") for i in range(19))])
    for i in range(19):
        picture(workplace.folder / "en" / f"{i}.png")
    assert workplace.run("data.max_skipped=0.1") == 2
    message = capsys.readouterr().err
    assert message.startswith(
        "error: 190 of 209 records (90.9%) cannot be used, data.max_skipped allows 10.0%: 190 x an "
    )
    assert workplace.run("data.max_skipped=0.95") == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("cannot be used: 1 images, 190 records")
    assert lines[at + 1 : at + 3] == [
        "  images: 1 x missing (bad.png of source en)",
        "  records: 190 x an image of the record cannot be used",
    ]


@pytest.mark.parametrize("records", [[llava("0.png", "<image>?", "")] * 3, [17, None], []])
def test_an_empty_result_is_never_written_over_good_files(workplace, capsys, records):
    workplace.source("en", "llava", [llava("0.png", "<image>?", "a")])
    picture(workplace.folder / "en" / "0.png")
    assert workplace.run() == 0
    before = workplace.bytes()
    workplace.sources.clear()
    workplace.source("en", "llava", records)
    assert workplace.run("data.max_skipped=1") == 2
    assert workplace.bytes() == before
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "nothing was written" in message
    assert ("the annotations hold no record" if not records else "nothing is left to write") in message


def test_reasons_that_differ_in_numbers_alone_are_one_and_only_the_three_most_frequent_are_printed(workplace, capsys):
    records = [llava("0.png", "<image>?", "a") for _ in range(9)]
    records += [llava("0.png", "<image>" * n, "a") for n in (3, 4, 12)]  # its questions have 3 <image>, ...
    records += [llava(None, "<image>", "a")] * 2 + [llava(None, "<video>", "a")] * 2 + [17]
    workplace.source("en", "llava", records)
    picture(workplace.folder / "en" / "0.png")
    assert workplace.run("data.max_skipped=0.5") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  records: ")]
    assert lines == [
        "  records: 3 x its questions have 3 <image>, and the record names 1 (record 9 of en.json)",
        "  records: 2 x a question has <image>, and the record names no image (record 12 of en.json)",
        "  records: 2 x a question has <video>, which is not read as an image (record 14 of en.json)",
    ]
    assert len(workplace.skipped()) == 8
