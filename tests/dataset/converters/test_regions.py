"""The formats of regions: names and boxes become questions about where and what."""

from __future__ import annotations

import json
import pickle

import pytest

from common.errors import UserError
from dataset.converters.base import Example, File
from dataset.converters.refcoco import read
from dataset.converters.regions import region_example
from tests.helpers.workplace import picture


def where(image: str, question: str, answer: str, **more) -> Example:
    return Example([image], [("human", question), ("gpt", [answer])], type="grounding", **more)


def what(image: str, question: str, *answers: str, **more) -> Example:
    return Example([image], [("human", question), ("gpt", list(answers))], type="region", **more)


REF = {
    "ref_id": 1,
    "image_id": 581857,
    "ann_id": 7,
    "split": "testA",
    "file_name": "COCO_train2014_000000581857_16.jpg",
    "sentences": [{"sent": "the lady in blue"}, "lady"],
}
IMAGE = "COCO_train2014_000000581857.jpg"
REF_EXAMPLES = [
    where(
        IMAGE,
        "Where is the lady in blue?",
        "<ref>the lady in blue</ref><box>(10,20),(5,8)</box>",
        id="1/0",
        split="test",
    ),
    where(IMAGE, "Where is lady?", "<ref>lady</ref><box>(10,20),(5,8)</box>", id="1/1", split="test"),
    what(IMAGE, "<box>(10,20),(5,8)</box> What is this?", "the lady in blue", "lady", id="1", split="test"),
]


def test_refcoco_in_json(files):
    path = files.write("refs.json", [{**REF, "bbox": [10, 20, 5, 8]}, {**REF, "bbox": [1], "sentences": ["a"]}, 3])
    assert files.looks_like(path) == "refcoco"
    assert files.read("refcoco", path) == [
        *REF_EXAMPLES,
        *["bbox is not four numbers"] * 2,
        "is not an object but a number",
    ]


def test_refcoco_as_published(files):
    path = files.write("refs(unc).p", pickle.dumps([REF], protocol=2))
    with pytest.raises(UserError, match=r"no bbox, and there is no instances.json beside it"):
        files.read("refcoco", path)
    files.write("instances.json", {"images": [], "annotations": [{"id": 7, "bbox": [10, 20, 5, 8]}]})
    assert files.read("refcoco", path) == REF_EXAMPLES


def test_a_pickle_that_would_run_code_is_refused(files):
    path = files.write("refs.p", pickle.dumps([print], protocol=2))
    with pytest.raises(UserError, match=r"refs.p: not a file of RefCOCO's references \(it holds __builtin__.print\)"):
        list(read(File(path)))
    for content in (pickle.dumps({}), b"", b"\x80"):
        with pytest.raises(UserError, match="not a file of RefCOCO's references"):
            list(read(File(files.write("refs.p", content))))


def test_visual_genome(files):
    region = {"region_id": 5, "image_id": 1, "x": 4, "y": 7, "width": 8, "height": 9}
    regions = [{**region, "phrase": "the clock is green"}, {**region, "phrase": "a <b> clock."}, {"phrase": "x"}]
    path = files.write("region_descriptions.json", [{"id": 1, "regions": regions}, {"id": 2}])
    assert files.looks_like(path) == "visual_genome"
    clock = "<ref>the clock is green</ref><box>(4,7),(8,9)</box>"
    assert files.read("visual_genome", path) == [
        where("1.jpg", "Where is the clock is green?", clock, id="5"),
        what("1.jpg", "<box>(4,7),(8,9)</box> What is this?", "a b clock", id="5"),
        "bbox is not four numbers",
        "has no list of regions",
    ]


def test_coco_instances(files):
    bowl, crowd = {"image_id": 9, "category_id": 51}, {"image_id": 9, "category_id": 1, "iscrowd": 1}
    annotations = [
        {**bowl, "bbox": [50.25, 1, 2, 2]},
        {**bowl, "bbox": [1, 2, 30, 4]},
        {**crowd, "bbox": [0, 0, 9, 9]},
        {**bowl, "image_id": 8, "bbox": [0, 0, 9, 9]},
        {**bowl, "bbox": None},
    ]
    categories = [{"id": 51, "name": "bowl"}, {"id": 1, "name": "person"}]
    content = {"images": [{"id": 9, "file_name": "9.jpg"}], "categories": categories, "annotations": annotations}
    path = files.write("instances.json", content)
    assert files.looks_like(path) == "coco_instances"
    both = "<ref>the bowl</ref><box>(1.0,2.0),(30.0,4.0)</box><box>(50.25,1.0),(2.0,2.0)</box>"
    assert files.read("coco_instances", path) == [
        "annotation 3 is of an image or a category that the file does not name",
        "annotation 4: bbox is not four numbers",
        where("9.jpg", "Where is the bowl?", both),
        what("9.jpg", "<box>(1.0,2.0),(30.0,4.0)</box> What is this?", "bowl"),
    ]


def test_records_with_bbox(files):
    records = [
        {"image": "a.jpg", "label": "红色公交车", "bbox": [1, 2, 3, 4], "id": 8, "split": "val"},
        {"image": "a.jpg", "expression": "a wheel", "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]},
        {"image": "a.jpg", "question": "Red?", "answer": "yes", "bbox": [1, 2, 3, 4], "type": "color"},
        {"image": "a.jpg", "bbox": [[1, 2, 3, 4]]},
        {"image": ["a.jpg", "b.jpg"], "label": "x", "bbox": [[1, 2, 3, 4], [1, 2, 3, True]]},
    ]
    path = files.write("a.jsonl", "\n".join(map(json.dumps, records)))
    assert files.looks_like(path) == "bbox"
    question = Example(["a.jpg"], [("human", "<box>(1,2),(3,4)</box> Red?"), ("gpt", ["yes"])], type="color")
    assert files.read("bbox", path) == [
        where("a.jpg", "红色公交车在哪里？", "<ref>红色公交车</ref><box>(1,2),(3,4)</box>", id="8", split="validation"),
        what("a.jpg", "<box>(1,2),(3,4)</box> 这是什么？", "红色公交车", id="8", split="validation"),
        where("a.jpg", "Where is a wheel?", "<ref>a wheel</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>"),
        question,
        "a region has no name",
        "a region has no name",
        "a box belongs to one image, this record has 2",
    ]


def test_a_name_has_no_marks_of_its_own():
    found = region_example("a.jpg", "where", ["<box>(1,2),(3,4)</box> dog"], [(1, 2, 3, 4)])
    assert found.messages[1].text == ["<ref>box (1,2),(3,4) /box dog</ref><box>(1,2),(3,4)</box>"]


def test_a_source_of_regions_must_declare_its_boxes_and_is_read_with_its_order(workplace, capsys):
    picture(workplace.folder / "en" / "a.png")  # 8 x 6 pixels
    workplace.source("en", "auto", [{"image": "a.png", "label": "dog", "bbox": [4, 3, 4, 3]}], box_format="xywh")
    siglip = ["vision.path=demo/backbones/siglip", "vision.image_context_length=63"]
    assert workplace.run(*siglip) == 2
    assert "data.sources.0.boxes: expected pixels, unit, 0-999 or 0-1000: records with bbox" in capsys.readouterr().err
    assert workplace.run(*siglip, "data.sources.0.boxes=pixels") == 0
    turns = [turn for one in workplace.read("annotations")["0"] for turn in one["turns"]]
    assert turns[0] == {"q": "<|extra_0|>\nWhere is dog?", "a": ["<ref>dog</ref><box>(500,500),(999,999)</box>"]}
    assert turns[1] == {"q": "<|extra_0|>\n<box>(500,500),(999,999)</box> What is this?", "a": ["dog"]}
