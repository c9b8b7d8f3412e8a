"""Frames of a video, evenly spread over it. PyAV decodes, and only where a run has videos.

Files come from outside. Every fault is an :class:`dataset.image.ImageError` of one line, no format is read that names
other files, and at any time one decoded frame is in memory beside those that are kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import UserError
from dataset.image import ImageError, check_size

if TYPE_CHECKING:
    from PIL import Image

    from settings import Config

PYAV = "av==18.1.0"
# Containers of one file. Playlists (hls, concat, dash) would open whatever files and addresses they name.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf,gif"
ENDINGS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv")
QUESTION, LABEL = 64, 12  # tokens that are left for a system text and a question, and for the time of a frame
FARTHEST = 1_000  # frames that are decoded from a key frame to a wanted time: 40 s at 25 frames a second
ROUNDED = 0.001  # seconds: a time is written with three decimals, and a frame is shown from its time on
MOST_PACKETS = 2_000_000  # read to find the length of a file that does not tell it: 10 hours at 50 a second


class Frame(NamedTuple):
    """A picture of a video, upright, and when it is shown, in seconds from the beginning."""

    image: Image.Image
    seconds: float


def read_frames(path: str | os.PathLike[str], count: int, max_pixels: int) -> list[Frame]:
    """At most ``count`` frames: in the middle of ``count`` equally long parts of the video, each frame once.

    For each frame the file is decoded from the key frame before it, so that ten hours take no longer than a minute.

    Raises:
        ImageError: missing, not a video, damaged, without a video stream or a frame, larger than ``max_pixels``; or
            PyAV is not installed.
    """
    return _read(path, lambda length: [length * (number + 0.5) / count for number in range(count)], max_pixels)


def read_frame(path: str | os.PathLike[str], seconds: float, max_pixels: int) -> Image.Image:
    """The frame that :func:`read_frames` gave for a time.

    Raises:
        ImageError: as :func:`read_frames`.
    """
    return _read(path, lambda length: [seconds + ROUNDED], max_pixels)[0].image


def _read(path: str | os.PathLike[str], times: Callable[[float], list[float]], max_pixels: int) -> list[Frame]:
    """The frames that are shown at ``times`` of a video's length, in seconds from its beginning."""
    try:
        import av
    except ImportError:
        raise ImageError(f"a video, which is read with PyAV; pip install {PYAV}") from None
    if not os.path.isfile(path):
        raise ImageError("not a file" if os.path.exists(path) else "missing")
    av.logging.set_level(None)
    try:
        # From an open file, so that no name of it is taken for an address.
        with open(path, "rb") as file, av.open(file, options={"format_whitelist": CONTAINERS}) as container:
            if not container.streams.video:
                raise ImageError("no video stream")
            stream = container.streams.video[0]
            check_size((stream.width or 1, stream.height or 1), max_pixels)
            begin, length = _extent(container, stream)
            frames = list(_frames_at(container, stream, begin, times(length), max_pixels))
    except ImageError:
        raise
    except Exception as error:  # PyAV raises many classes for a damaged file
        reason = str(getattr(error, "strerror", None) or type(error).__name__)  # the whole message holds the path
        raise ImageError(f"cannot be decoded as a video: {reason}") from None
    if not frames:
        raise ImageError("a video without a frame that can be decoded")
    return frames


def _frames_at(container: Any, stream: Any, begin: float, times: list[float], max_pixels: int) -> Iterator[Frame]:
    """The frames at ``times`` after ``begin``, each once."""
    shown = -1.0
    for seconds in times:
        wanted = begin + seconds
        container.seek(int(wanted / stream.time_base), stream=stream, backward=True)
        frame = _frame_at(container, stream, wanted)
        if frame is None or frame.time is None or frame.time <= shown:
            continue
        shown = frame.time
        check_size((frame.width, frame.height), max_pixels)  # a stream may change its size
        image = frame.to_image()
        if frame.rotation:
            image = image.rotate(frame.rotation, expand=True)
        yield Frame(image, max(0.0, shown - begin))


def _extent(container: Any, stream: Any) -> tuple[float, float]:
    """The first time and the length of a stream in seconds, counted from its packets where the file does not tell."""
    begin = float((stream.start_time or 0) * stream.time_base)
    if stream.duration:
        return begin, float(stream.duration * stream.time_base)
    if container.duration:
        return begin, container.duration / 1_000_000
    last = begin
    for number, packet in enumerate(container.demux(stream)):
        if packet.pts is not None:
            last = max(last, float((packet.pts + (packet.duration or 0)) * stream.time_base))
        if number >= MOST_PACKETS:
            break
    return begin, last - begin


def _frame_at(container: Any, stream: Any, wanted: float) -> Any:
    """The frame that is shown at a time; the last one before it where the file ends, or is damaged, earlier."""
    import av

    found = None
    try:
        for number, frame in enumerate(container.decode(stream)):
            if found is not None and frame.time is not None and frame.time > wanted:
                break
            found = frame
            if number >= FARTHEST:
                break
    except av.FFmpegError:
        pass  # a damaged part: what was decoded before it is taken
    return found


def frames_that_fit(config: Config, max_new_tokens: int) -> int:
    """How many frames leave room for a question and an answer in ``language.max_length``.

    Raises:
        UserError: not one.
    """
    room = config.language.max_length - max_new_tokens - QUESTION
    found = room // (config.vision.image_context_length + LABEL)
    if found < 1:
        raise UserError(
            f"language.max_length = {config.language.max_length}: no room for a frame of "
            f"{config.vision.image_context_length} tokens beside {max_new_tokens} of the answer; use a connector with "
            "fewer tokens (projector.kind: pool or resampler)"
        )
    return found


def frame_address(path: str, seconds: float) -> str:
    """The path of a video's frame: a media fragment, such as ``clip.mp4#t=1.500``."""
    return f"{path}#t={seconds:.3f}"


def frame_in(address: str) -> tuple[str, float] | None:
    """Undo :func:`frame_address`: the video and the time in seconds; None for any other path."""
    path, _, seconds = address.rpartition("#t=")
    return (path, float(seconds)) if re.fullmatch(r"\d{1,6}\.\d{3}", seconds) else None


def file_of(address: str) -> str:
    """The file of a picture's path: for a frame, its video."""
    found = frame_in(address)
    return found[0] if found else address


def is_video(name: str) -> bool:
    """Whether a file is a video, by its name."""
    return name.lower().endswith(ENDINGS)


def time_label(seconds: float) -> str:
    """What is written before a frame where the prompt tells times."""
    return f"<frame {seconds:.1f}s>"
