"""From an image file to ``pixel_values``.

Training, evaluation, ``ask.py`` and the window all use :func:`load_image` and :func:`prepare_image`, so a picture is
prepared for an answer as it was for training. Files come from outside: any fault of one is an :class:`ImageError` with
a reason of one line, and the size is checked before decoding.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image

from common.errors import UserError
from common.hub import model_folder
from dataset.boxes import PictureSize
from dataset.processor_settings import settings_of_convnext, settings_of_model

if TYPE_CHECKING:  # processes that only check images need neither
    import torch
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

ImageProcessor = Any  # one of these two; transformers has no types

# Some formats in Pillow's full list start other programs (EPS runs Ghostscript) or hold pictures of several sizes
# (icons), so the list is explicit. MPO comes with JPEG. TGA has no signature and is tried last.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")

PILLOW_HEIF = "pillow-heif==1.8.1"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason, in one line, without the file's name."""


_PILLOW_LIMIT = threading.Lock()  # held while Pillow's own limit is another


def load_image(path: str | os.PathLike[str] | bytes, max_pixels: int, at_least: int | None = None) -> Image.Image:
    """Read an image file upright, in mode ``RGB``, transparency on white, the first frame of an animation.

    A JPEG is decoded at its full size: JPEG's smaller scales are faster from 768 px on, but change ``pixel_values`` by
    up to 40 of 255 levels (``python -m benchmarks.loader``); the encoder's own processor rounds by half a level.

    Args:
        path: of the file, or its content.
        max_pixels: the largest width times height, ``data.max_pixels`` of the run. Pillow's own limit follows it.
        at_least: for thumbnails: a JPEG may be decoded at a smaller scale of at least so many pixels on each side.

    Raises:
        ImageError: missing, too large, or not decodable to the last row.
    """
    if not isinstance(path, bytes) and not os.path.isfile(path):  # opening a pipe would wait forever
        raise ImageError("not a file" if os.path.exists(path) else "missing")
    file = io.BytesIO(path) if isinstance(path, bytes) else path
    try:
        formats = _formats_of(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one about damaged metadata for each such photo
            with _pillow_limit(max_pixels):
                opened = Image.open(file, formats=formats)
            with opened as image:
                check_size(image.size, max_pixels)
                if at_least is not None:
                    image.draft("RGB", (at_least, at_least))
                image.load()
                return _to_rgb(_upright(image))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:  # its message holds the path
        raise ImageError("cannot be decoded: not an image in a known format") from None
    except Image.DecompressionBombError:  # Pillow raises it from twice its limit on
        raise ImageError(f"too large: more than {2 * max_pixels:,} pixels, limit {max_pixels:,} in all") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything, from SyntaxError to MemoryError
        raise ImageError(f"cannot be decoded: {_one_line(error)}") from None


def picture_size(path: str | os.PathLike[str]) -> PictureSize:
    """The stored size of an image file and its EXIF orientation. Reads the head of the file; nothing is decoded.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_formats_of(path)) as image:
                return PictureSize(*image.size, _orientation(image))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be decoded: {_one_line(error)}") from None


def prepare_image(image: Image.Image, processor: ImageProcessor) -> torch.Tensor:
    """The encoder's input for a picture, by the encoder's own processor: float32 [3, H, W]."""
    return processor(images=image, return_tensors="pt")["pixel_values"][0]


def load_image_processor(
    folder_or_name: str, image_size: int | None = None
) -> SiglipImageProcessorPil | CLIPImageProcessorPil:
    """The processor in an encoder's folder or under its hub name, in the variant that needs only Pillow.

    Args:
        image_size: a resolution instead of the processor's own, in pixels (``vision.image_size``).

    Raises:
        UserError: no readable ``preprocessor_config.json``, or one of another kind of encoder.
    """
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil  # takes seconds

    others = ("CLIPImageProcessor", "BitImageProcessor", "ConvNextImageProcessor")
    classes = {**dict.fromkeys(others, CLIPImageProcessorPil), "SiglipImageProcessor": SiglipImageProcessorPil}
    folder = model_folder(folder_or_name, "vision.path")
    if (own := settings_of_model(folder)) is not None:
        processor = CLIPImageProcessorPil(**own)
        return processor if image_size is None else resized(processor, image_size)
    try:
        settings, _ = SiglipImageProcessorPil.get_image_processor_dict(folder)
        settings = settings.get("image_processor", settings)  # of a processor_config.json
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder_or_name}: no readable preprocessor_config.json ({_one_line(error)})") from None
    # The first CLIP models name it under the older key.
    kind = settings.get("image_processor_type", settings.get("feature_extractor_type", "SiglipImageProcessor"))
    name = str(kind).removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name not in classes:
        raise UserError(f"{folder_or_name}: expected one of {', '.join(sorted(classes))}, not a {kind}")
    if name == "ConvNextImageProcessor":
        settings = settings_of_convnext(settings)
    processor = classes[name].from_dict(settings)
    return processor if image_size is None else resized(processor, image_size)


def resized(processor: ImageProcessor, image_size: int) -> ImageProcessor:
    """The same processor at another resolution: SigLIP stretches to a square, CLIP crops one from the middle."""
    square = {"height": image_size, "width": image_size}
    crops = processor.do_center_crop
    size = {"shortest_edge": image_size} if crops else square
    return type(processor).from_dict({**processor.to_dict(), "size": size, **({"crop_size": square} if crops else {})})


def _formats_of(path: str | os.PathLike[str] | bytes) -> tuple[str, ...]:
    """Pillow's formats to try, by the first bytes of a file.

    Raises:
        ImageError: a PDF, or HEIC without pillow-heif.
    """
    if isinstance(path, bytes):
        start = path[:64]
    else:
        with open(path, "rb") as file:
            start = file.read(64)
    if start.startswith(b"%PDF"):
        raise ImageError("a PDF, not an image; make images of its pages first, such as pdftoppm -r 150 -png FILE page")
    if start[4:8] != b"ftyp" or not any(brand in start for brand in (b"heic", b"heix", b"hevc")):
        return FORMATS
    try:
        from pillow_heif import register_heif_opener  # optional; iPhones write HEIC
    except ImportError:
        raise ImageError(f"HEIC, which is read with pillow-heif; pip install {PILLOW_HEIF}") from None
    register_heif_opener()
    return ("HEIF",)


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Let Pillow check sizes against ``max_pixels`` while it opens a file: its own limit is 89,478,485 pixels.

    The limit is a global variable of Pillow's, so that one thread at a time may change it. It is read while a file is
    opened and not while it is decoded.
    """
    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels, limit {max_pixels:,} in all")
    if width < 1 or height < 1:
        raise ImageError(f"cannot be decoded: {width} x {height} pixels")


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say; as it is if they are damaged."""
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where the EXIF data are damaged or say nothing."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return 1
    return found if found in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _deep_to_rgb(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # premultiplied; Pillow converts it only to LA
        image = image.convert("LA")
    image = image.convert("RGBA")
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=image.getchannel("A"))
    return page


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits or of floats, scaled to 8 bits; ``convert`` would clip everything above 255 to white.

    White is 65535 for integers. For floats it is the smallest of 1, 255 and 65535 that no value exceeds. Other ranges
    are stretched between their minimum and maximum.
    """
    import numpy as np  # 0.1 s of each command's start, and only such pictures need it

    values = np.array(image, dtype=np.float32)  # [H, W]
    values[~np.isfinite(values)] = 0.0
    low, high = float(values.min()), float(values.max())
    whites = [w for w in ((1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)) if high <= w]
    black, white = (0.0, whites[0]) if low >= 0 and whites else (low, high)
    transparent = values == image.info.get("transparency")  # a PNG may name one value
    scale = 255 / (white - black or 1.0)
    grey = np.clip(np.rint(values * scale - black * scale), 0, 255).astype(np.uint8)
    grey[transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:160]
    return text or type(error).__name__
