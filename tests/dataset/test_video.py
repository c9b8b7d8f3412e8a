"""Frames of a video: evenly spread, upright, and every broken file one line."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from dataset.image import ImageError
from dataset.video import (
    Frame,
    file_of,
    frame_address,
    frame_in,
    is_video,
    read_frame,
    read_frames,
    time_label,
)
from tests.helpers.clips import write_clip

pytest.importorskip("av", reason="PyAV is not installed")


def greys(frames: list[Frame]) -> list[int]:
    return [round(float(np.asarray(frame.image).mean())) for frame in frames]


@pytest.fixture
def clip(tmp_path):
    """Forty frames in four seconds, each 6 levels brighter than the one before it."""
    return write_clip(tmp_path / "clip.mp4", 40, rate=10)


def test_frames_are_in_the_middle_of_equal_parts(clip):
    frames = read_frames(clip, 4, 10**6)
    assert [frame.seconds for frame in frames] == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert np.abs(np.array(greys(frames)) - [30, 90, 150, 210]).max() <= 4
    assert frames[0].image.size == (64, 48) and frames[0].image.mode == "RGB"


def test_each_frame_is_taken_once(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3, rate=10)
    assert [frame.seconds for frame in read_frames(clip, 50, 10**6)] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi", "clip.gif"])
def test_other_containers(tmp_path, name):
    frames = read_frames(write_clip(tmp_path / name, 8, rate=10), 2, 10**6)
    assert len(frames) == 2 and frames[0].seconds < frames[1].seconds


def test_a_stream_of_ten_hours_is_not_decoded(tmp_path):
    """Four frames with hours between them: only what is asked for is decoded, in the memory of a few frames."""
    clip = write_clip(tmp_path / "long.mp4", 5, rate=10, seconds_apart=9_000)
    tracemalloc.start()
    frames = read_frames(clip, 4, 10**6)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert len(frames) == 4 and frames[-1].seconds > 20_000


def test_a_truncated_file_gives_what_is_there(tmp_path):
    """A Matroska file can be read from its beginning on; an MP4 has its index at the end."""
    whole = write_clip(tmp_path / "a.mkv", 40, rate=10).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    assert 1 <= len(read_frames(tmp_path / "cut.mkv", 4, 10**6)) <= 4


def hostile(folder):
    whole = write_clip(folder / "a.mp4", 20, rate=10).read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "no.mp4").write_bytes(b"no video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{folder}/a.mp4\n#EXT-X-ENDLIST\n")
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{folder}/a.mp4'\n")
    sound = b"RIFF" + struct.pack("<I", 36 + 800) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    (folder / "sound.avi").write_bytes(sound + b"data" + struct.pack("<I", 800) + bytes(800))
    write_clip(folder / "none.mkv", 0, rate=10)


@pytest.mark.parametrize(
    "name",
    ["truncated.mp4", "no.mp4", "empty.mp4", "list.m3u8", "list.mp4", "sound.avi", "none.mkv", "absent.mp4", "."],
)
def test_a_broken_or_hostile_file_is_one_line(tmp_path, name):
    hostile(tmp_path)
    with pytest.raises(ImageError) as error:
        read_frames(tmp_path / name, 4, 10**6)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250 and str(tmp_path) not in str(error.value)


def test_a_file_without_a_video_stream_is_said(tmp_path):
    from tests.helpers.clips import write_sound

    with pytest.raises(ImageError, match="^no video stream$"):
        read_frames(write_sound(tmp_path / "a.mkv"), 4, 10**6)


def test_the_size_is_checked_before_decoding(clip):
    with pytest.raises(ImageError, match="too large: 64 x 48 pixels, limit 3,000 in all"):
        read_frames(clip, 4, 3000)


def test_names_and_times():
    assert is_video("a/B.MP4") and not is_video("a.jpg")
    assert time_label(1.54) == "<frame 1.5s>"


def test_a_frame_is_read_again_by_its_address(tmp_path):
    """A rate of 7: the times have no end in decimals, and are written with three."""
    clip = str(write_clip(tmp_path / "clip.mp4", 40, rate=7))
    for frame in read_frames(clip, 9, 10**6):
        video, seconds = frame_in(frame_address(clip, frame.seconds))
        assert video == clip and read_frame(video, seconds, 10**6).tobytes() == frame.image.tobytes()
    assert frame_address("a b.mp4", 1.5) == "a b.mp4#t=1.500" and file_of("a b.mp4#t=1.500") == "a b.mp4"
    assert frame_in("a#t=1.jpg") is frame_in("a#t=-1.000") is frame_in("a.mp4") is None and file_of("a.jpg") == "a.jpg"
    with pytest.raises(ImageError, match="^missing$"):
        read_frame(tmp_path / "no.mp4", 1.0, 10**6)
