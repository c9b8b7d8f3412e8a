"""The same file gives the same pixels under every Pillow that is used: web.py's environment has an older one.

The numbers are those of Pillow 13.0.0. ``make test-web`` compares them with those of the older one.
"""

from __future__ import annotations

import base64
import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from dataset.image import load_image, prepare_image

# 28 x 20 pixels with the colours halved in both directions, as cameras do.
JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wAARCAAUABwD"
    "ASIAAhEBAxEB/8QAGAAAAwEBAAAAAAAAAAAAAAAAAAQFAwb/xAAgEAABBAICAwEAAAAAAAAAAAAAAQIDBCFhETESQVGB/8QAGAEAAgMAAAAAAAAA"
    "AAAAAAAAAwYBBAX/xAAeEQEAAgICAwEAAAAAAAAAAAABAAMEEQIhEiNRYf/aAAwDAQACEQMRAD8A5GKpocipaKMFTRQgpaA1eyDx8vUlRUdDbaGO"
    "iuys1i8ePK/DdteRU+fhNjRwfF7fyb+PlqRWvE3GCgxjWxqqJkAAYylSnxiJQuyb14WYwNuRrOERqdewArcOqtkYKVn/2Q=="
)
SIGLIP = SiglipImageProcessorPil(size={"height": 42, "width": 42}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
CLIP = CLIPImageProcessorPil(
    size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}, image_mean=[0.5] * 3, image_std=[0.5] * 3
)


def noise(mode: str, width: int, height: int) -> Image.Image:
    channels = len(mode)
    values = np.random.default_rng(7).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(-1) if channels == 1 else values, mode if channels == 1 else None)


def palette() -> Image.Image:
    image = Image.fromarray(np.array(noise("L", 50, 40)) % 16, "P")
    image.putpalette(noise("RGB", 16, 1).tobytes())
    return image


def as_file(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return as_file(noise("RGB", 30, 17), "PNG", exif=exif)


FILES = {
    "jpeg": lambda: base64.b64decode(JPEG),
    "smaller": lambda: as_file(noise("RGB", 97, 61), "PNG"),
    "larger": lambda: as_file(noise("RGB", 9, 13), "PNG"),
    "transparent": lambda: as_file(noise("RGBA", 50, 40), "PNG"),
    "palette": lambda: as_file(palette(), "GIF"),
    "grey": lambda: as_file(noise("L", 50, 40), "BMP"),
    "turned": turned,
}
# name -> SHA-256, the first 12 digits: of the decoded picture, and of what SigLIP and CLIP are given, in 8 bits.
EXPECTED = {
    "jpeg": ["a2ac04237dcb", "641586cfc047", "1b04fb8b038c"],
    "smaller": ["ab4bdf53598b", "6e37685b6e02", "ff40eae36835"],
    "larger": ["a5ed017d53eb", "9358b92fe055", "242f5f36294e"],
    "transparent": ["181a7f3161cd", "0a93f4ca0a8c", "f546933701a1"],
    "palette": ["57a6dbf5381d", "6167dbd3feb6", "d40942bad859"],
    "grey": ["cb8af929cb46", "b3c773406f31", "d681b7b870b1"],
    "turned": ["e1d0548ed5ad", "b31089d8d7a5", "3dad9bf002a2"],
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_reference_pixels(name):
    image = load_image(FILES[name](), max_pixels=10_000)
    digests = [hashlib.sha256(image.tobytes()).hexdigest()[:12]]
    for processor in (SIGLIP, CLIP):
        values = prepare_image(image, processor).numpy()  # [3, 42, 42]
        levels = (values * 0.5 + 0.5) * 255
        assert np.abs(levels - np.rint(levels)).max() < 1e-3
        digests.append(hashlib.sha256(np.rint(levels).astype(np.uint8).tobytes()).hexdigest()[:12])
    assert digests == EXPECTED[name]
