"""Videos in records: each becomes its frames, and a broken one is listed like a broken picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from dataset.converters.base import Example, Message
from dataset.preparing.process import with_frames
from tests.helpers.clips import write_clip
from tests.helpers.workplace import picture, talk


def test_a_video_is_a_conversation_about_its_frames(workplace):
    pytest.importorskip("av", reason="PyAV is not installed")
    folder = workplace.folder / "en"
    picture(folder / "a.png")
    write_clip(folder / "clip.mp4", 40, rate=10)
    (folder / "broken.mp4").write_bytes(b"no video")
    records = [
        {"video": "clip.mp4", "conversations": talk("<video>\nWhat happens?", "It gets brighter.", "Why?", "Sun.")},
        {"image": "a.png", "conversations": talk("What?", "red")},
        {"video": "broken.mp4", "conversations": talk("<video>?", "?")},
        {"video": "clip.mp4", "conversations": talk("Is it night?", "no")},
    ]
    workplace.source("en", "auto", records)
    workplace.data |= {
        "max_skipped": 0.5,
        "video_frames": 3,
        "video_times": True,
        "frames": str(workplace.folder / "f"),
    }
    assert workplace.run() == 0
    images, (first, second) = workplace.read("image_map"), workplace.read("annotations")["0"]
    assert list(images) == [*(f"clip.mp4/00{n}.jpg" for n in range(3)), "a.png"]
    frames = "<frame 0.6s><|extra_0|><frame 2.0s><|extra_0|><frame 3.3s><|extra_0|>"
    assert first["images"] == second["images"] == [0, 1, 2]
    assert [turn["q"] for turn in first["turns"]] == [f"{frames}\nWhat happens?", "Why?"]
    assert second["turns"][0]["q"] == f"{frames}\nIs it night?"
    with Image.open(images["clip.mp4/001.jpg"]["path"]) as frame:
        assert frame.size == (64, 48)
    assert workplace.skipped() == [
        ("broken.mp4", "cannot be decoded as a video: Invalid data found when processing input")
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["<image> or <image>?"], ["A<image>B<image> or <image>?"]),
        (["compare <image>"], ["A<image>B<image>\ncompare <image>"]),
        (["first", "<IMAGE>?"], ["A<image>B<image>\nfirst", "<image>?"]),
        (["<image>", "<image>", "<image>"], ["A<image>B<image>", "<image>", "<image>"]),
    ],
)
def test_marks_of_videos_and_pictures(texts, expected):
    example = Example(["v.mp4", "p.jpg"], [Message("human", text) for text in texts])
    found = with_frames(example, {"v.mp4": [("v.mp4/000.jpg", "A"), ("v.mp4/001.jpg", "B")]})
    assert [message.text for message in found.messages] == expected
    assert found.images == ["v.mp4/000.jpg", "v.mp4/001.jpg", "p.jpg"]
    assert with_frames(example, {}) is example


def test_without_pyav_videos_are_listed_with_what_to_install(workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    picture(workplace.folder / "en" / "a.png")
    Path(workplace.folder / "en" / "a.mp4").write_bytes(b"")
    records = [
        {"image": "a.png", "conversations": talk("?", "red")},
        {"video": "a.mp4", "conversations": talk("?", "x")},
    ]
    workplace.source("en", "llava", records)
    workplace.data["max_skipped"] = 0.5
    assert workplace.run() == 0
    assert workplace.skipped() == [("a.mp4", "a video, which is read with PyAV; pip install av==18.1.0")]
