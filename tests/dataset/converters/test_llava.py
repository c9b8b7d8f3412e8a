"""LLaVA's records and their relatives."""

from __future__ import annotations

import pytest

from dataset.converters import FORMATS
from dataset.converters.choose import choose
from dataset.converters.llava import example
from dataset.records import RecordError
from settings import Source
from tests.helpers.workplace import talk


@pytest.mark.parametrize("images", ["image", "images"])
@pytest.mark.parametrize("value", ["a.jpg", ["a.jpg"], {"path": "a.jpg", "bytes": None}, [{"path": "a.jpg"}]])
@pytest.mark.parametrize("messages", ["conversations", "messages"])
def test_either_name_of_a_field_as_text_or_list(images, value, messages):
    found = example({images: value, messages: talk("<image>?", "yes")})
    assert found.images == ["a.jpg"]
    assert found.messages == [("human", "<image>?"), ("gpt", "yes")]


def test_an_empty_field_hides_no_filled_one():
    assert example({"image": "", "images": ["a.jpg"], "conversations": talk("?", "yes")}).images == ["a.jpg"]
    assert example({"image": None, "conversations": None, "messages": talk("?", "yes")}).messages[1] == ("gpt", "yes")


@pytest.mark.parametrize("key", ["audio", "audios"])
def test_what_is_no_picture_is_refused_by_name(key):
    with pytest.raises(RecordError, match=f"names a file under {key}, which is not read"):
        example({key: "a.mp3", "conversations": talk("<audio>?", "yes")})


@pytest.mark.parametrize("key", ["video", "videos"])
def test_a_video_is_an_image_until_its_frames_are_known(key):
    found = example({key: "a.mp4", "conversations": talk("<video>\nWhat happens?", "a <video>")})
    assert found.images == ["a.mp4"] and found.messages[0] == ("human", "<image>\nWhat happens?")
    with pytest.raises(RecordError, match=f"names images under image and a video under {key}; only one kind is read"):
        example({"image": "a.jpg", key: "a.mp4", "conversations": talk("?", "yes")})


def test_coco_is_its_old_name(tmp_path):
    source = Source(name="x", format="coco", annotations=str(tmp_path / "a.json"), images=str(tmp_path))
    assert choose(source, "data.sources.0")[:2] == ("llava", FORMATS["llava"])
