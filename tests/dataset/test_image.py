"""Files to pixels: every mode upright and in RGB, every damage one line and no crash."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import types
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from common.errors import UserError
from dataset.image import FORMATS, PILLOW_HEIF, ImageError, _to_rgb, load_image, load_image_processor, prepare_image

REPO = Path(__file__).resolve().parent.parent.parent

# Of odd_images: what is whole enough to show, and what must be refused. The others may go either way.
READABLE = """16bit.cropped.tif apng_delay.png apng_mode_16bit.png dispose_bgnd.gif hopper.Lab.tif hopper_16bit.pgm
hopper_1bit.pbm hopper_bad_exif.jpg hopper_orientation_3.jpg hopper_orientation_6.jpg hopper_orientation_8.webp
i_trns.png icc_profile_big.jpg imagedraw_ellipse_width_large.png invalid-exif.jpg iss634.gif iss634.webp la.tga
orientation_rectangle.jpg p_trns_single.png pil123p.png pil_sample_cmyk.jpg rgb_trns.png sugarshack.mpo
tiff_16bit_RGBa.tiff tiff_strip_cmyk_jpeg.tif transparent.gif transparent.png transparent.webp""".split()
UNREADABLE = """LICENSE.Pillow bmp_b_badwidth.bmp broken.png broken_data_stream.png decompression_bomb.gif
decompression_bomb.ico hopper_unknown_pixel_mode.tif oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif
png_decompression_dos.png pngtest_bad.png.bin seek_too_large.tif truncated_end_chunk.png truncated_image.png
truncated_jpeg.jpg zero_width.gif""".split()


def pixels(path) -> np.ndarray:
    return np.asarray(load_image(path, 50_000_000))


def reason(path, max_pixels: int = 50_000_000) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path, max_pixels)
    text = str(caught.value)
    assert text and "\n" not in text and (str(path) or "\n") not in text
    return text


# ---------------------------------------------------------------------------------------------- damaged files

_READ_ALL = """
import json, resource, sys
from pathlib import Path
from dataset.image import ImageError, load_image
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30,) * 2)  # a decompressed bomb would not fit
seen = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        image = load_image(path, 50_000_000)
        seen[path.name] = [image.mode, *image.size, ""]
    except ImageError as error:
        seen[path.name] = ["", 0, 0, str(error)]
print(json.dumps(seen))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process, which only Linux does reliably")
def test_every_odd_image_is_read_as_rgb_or_refused_in_one_line(shared_data):
    folder = shared_data / "odd_images"
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(folder)],
        cwd=REPO, capture_output=True, text=True, timeout=60, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) == len(list(folder.iterdir())) == 50
    for name, (mode, width, height, problem) in seen.items():
        assert (mode == "RGB" and width * height > 0) or (problem and "\n" not in problem), name
    assert [name for name in READABLE if seen[name][0] != "RGB"] == []
    assert [name for name in UNREADABLE if not seen[name][3]] == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff", "bmp"])
def test_a_truncated_file_is_an_error_and_not_half_grey(tmp_path, kind, share):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, format=kind)
    content = whole.getvalue()
    (tmp_path / "cut").write_bytes(content[: int(len(content) * share)])
    assert reason(tmp_path / "cut").startswith("cannot be decoded")
    (tmp_path / "whole").write_bytes(content)
    assert load_image(tmp_path / "whole", 50_000_000).size == (80, 60)


def png_of_size(path: Path, width: int, height: int) -> Path:
    """A PNG that promises this size and holds one row of it: decoding it fails with another reason."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj()
    row = packer.compress(bytes(width + 1)) + packer.flush(zlib.Z_SYNC_FLUSH)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b""))
    return path


def test_the_size_is_checked_before_decoding(tmp_path):
    path = png_of_size(tmp_path / "large.png", 8000, 7000)
    assert reason(path) == "too large: 8000 x 7000 pixels, limit 50,000,000 in all"
    assert reason(path, max_pixels=56_000_000).startswith("cannot be decoded")  # allowed, and only one row is there
    small = png_of_size(tmp_path / "small.png", 30, 20)
    assert reason(small, max_pixels=599) == "too large: 30 x 20 pixels, limit 599 in all"


@pytest.mark.parametrize("pillows", [100, 500, 10**9])  # Pillow refuses 600 pixels, warns about them, takes them
def test_pillows_own_limit_follows_ours(tmp_path, monkeypatch, pillows):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", 600).size == (30, 20)
    assert reason(tmp_path / "a.png", max_pixels=599) == "too large: 30 x 20 pixels, limit 599 in all"
    assert reason(tmp_path / "a.png", max_pixels=250) == "too large: more than 500 pixels, limit 250 in all"
    assert Image.MAX_IMAGE_PIXELS == pillows


def test_threads_with_other_limits_do_not_disturb_each_other(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS

    def look(number: int) -> str:
        if number % 2:
            return reason(tmp_path / "a.png", max_pixels=250)
        return str(load_image(tmp_path / "a.png", 600).size)

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(look, range(400)))
    assert seen == {"(30, 20)", "too large: more than 500 pixels, limit 250 in all"}
    assert Image.MAX_IMAGE_PIXELS == before


def test_pillow_is_left_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    reason(png_of_size(tmp_path / "bomb.png", 10_000, 10_000))
    Image.new("RGB", (2, 2)).save(tmp_path / "good.png")
    load_image(tmp_path / "good.png", 50_000_000)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


def test_what_is_no_file_is_refused_by_name(tmp_path):
    assert reason(tmp_path / "nothing.jpg") == "missing"
    assert reason(tmp_path / ("x" * 5000)) == "missing"
    assert reason("nul\0byte.jpg") == "missing"
    assert reason("") == "missing"
    assert reason(tmp_path) == "not a file"
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert reason(tmp_path / "empty.jpg") == "cannot be decoded: not an image in a known format"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a file"


@pytest.mark.parametrize(
    "error", [SyntaxError("x\ny"), struct.error("s"), MemoryError(), EOFError(), OverflowError("o")]
)
def test_anything_pillow_raises_becomes_one_line(tmp_path, monkeypatch, error):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")

    def load(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    expected = " ".join(str(error).split()) or type(error).__name__
    assert reason(tmp_path / "a.png") == f"cannot be decoded: {expected}"


def test_formats_that_start_other_programs_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    assert Image.open(tmp_path / "a.eps").format == "EPS"
    assert reason(tmp_path / "a.eps") == "cannot be decoded: not an image in a known format"


def test_a_pdf_is_refused_by_name(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%PDF-1.7\n1 0 obj")
    assert reason(tmp_path / "a.jpg").startswith("a PDF, not an image; make images of its pages first")


def test_heic_is_read_with_pillow_heif_and_named_without_it(tmp_path, monkeypatch):
    start = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason(start) == f"HEIC, which is read with pillow-heif; pip install {PILLOW_HEIF}"
    avif = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(avif, "AVIF")
    assert load_image(avif.getvalue(), 50_000_000).size == (8, 6)  # the same container; Pillow reads it itself
    registered = []
    plugin = types.SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "open", lambda file, formats: registered.append(formats) or Image.new("RGB", (8, 6)))
    assert load_image(start, 50_000_000).size == (8, 6) and registered == [True, ("HEIF",)]


def test_heic_of_a_phone(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif, which reads HEIC, is not installed")
    heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(tmp_path / "a.heic")
    assert load_image(tmp_path / "a.heic", 50_000_000).size == (64, 48)


def test_every_format_we_name_is_one_pillow_knows():
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


# ---------------------------------------------------------------------------------------------- modes

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),  # stored lying on its left side: turned clockwise
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photo_is_turned_as_its_exif_says_and_only_once(tmp_path, orientation, kind):
    stored = np.random.default_rng(1).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    Image.fromarray(stored).save(tmp_path / "a", format=kind, exif=exif, **options)
    assert np.array_equal(pixels(tmp_path / "a"), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\x01\0"])
def test_damaged_exif_costs_neither_the_photo_nor_a_warning(tmp_path, recwarn, exif, kind):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a", format=kind, exif=b"Exif\0\0" + exif)
    assert load_image(tmp_path / "a", 50_000_000).size == (6, 4)
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparent_pixels_become_white_and_half_transparent_ones_half_white(mode):
    plain = Image.new("RGBA", (3, 1))
    plain.putdata([(0, 0, 0, 0), (0, 0, 0, 128), (0, 0, 0, 255)])
    if mode == "La":  # Pillow's only way there
        image = plain.convert("LA").convert("La")
    elif mode == "PA":
        image = Image.new("PA", (3, 1))
        image.putpalette([0, 0, 0])
        image.putalpha(plain.getchannel("A"))
    else:
        image = plain.convert(mode)
    assert image.mode == mode
    assert np.asarray(_to_rgb(image))[0].tolist() == [[255] * 3, [127] * 3, [0] * 3]


def test_a_transparent_colour_becomes_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    palette.save(tmp_path / "p.gif", transparency=0)
    palette.save(tmp_path / "half.png", transparency=bytes([255, 0]))
    rgb = Image.new("RGB", (2, 1), (10, 20, 30))
    rgb.putpixel((1, 0), (40, 50, 60))
    rgb.save(tmp_path / "rgb.png", transparency=(10, 20, 30))
    grey = Image.fromarray(np.array([[7, 9]], np.uint8))
    grey.save(tmp_path / "l.png", transparency=7)
    for name in ("p.png", "p.gif", "rgb.png"):
        assert pixels(tmp_path / name)[0].tolist() == [[255] * 3, [40, 50, 60]], name
    assert pixels(tmp_path / "half.png")[0].tolist() == [[10, 20, 30], [255] * 3]
    assert pixels(tmp_path / "l.png")[0].tolist() == [[255] * 3, [9] * 3]


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, kind):
    values = np.array([[0, 256, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a", format=kind)
    assert pixels(tmp_path / "a")[0].tolist() == [[v] * 3 for v in (0, 1, 1, 128, 255)]


def test_a_transparent_sixteen_bit_grey_becomes_white(tmp_path):
    Image.fromarray(np.array([[0, 300, 65535]], np.uint16)).save(tmp_path / "a.png", transparency=300)
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[0, 32768, 65535]], np.float32), [0, 128, 255]),
        (np.array([[-3e38, 0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 1, np.inf]], np.float32), [0, 255, 0]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[0, 50_000, 100_000]], np.int32), [0, 128, 255]),
        (np.array([[-10, 0, 10]], np.int32), [0, 128, 255]),
        (np.array([[-7, -7, -7]], np.int32), [0, 0, 0]),
    ],
)
def test_floats_and_long_integers_fill_the_range(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert pixels(tmp_path / "a.tiff")[0, :, 0].tolist() == expected


def test_other_colour_spaces_come_out_in_their_colours(tmp_path):
    Image.new("CMYK", (2, 2), (255, 0, 0, 0)).save(tmp_path / "cmyk.tiff")
    assert pixels(tmp_path / "cmyk.tiff")[0, 0].tolist() == [0, 255, 255]
    Image.new("1", (2, 2), 1).save(tmp_path / "bit.png")
    assert pixels(tmp_path / "bit.png")[0, 0].tolist() == [255] * 3
    Image.new("L", (2, 2), 90).save(tmp_path / "grey.jpg", quality=100)
    assert pixels(tmp_path / "grey.jpg")[0, 0].tolist() == [90] * 3
    if features.check("littlecms2"):
        Image.new("LAB", (2, 2), (255, 128, 128)).save(tmp_path / "lab.tiff")
        assert pixels(tmp_path / "lab.tiff").min() >= 253


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_an_animation_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / "a", format=kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert Image.open(tmp_path / "a").n_frames == 2
    assert pixels(tmp_path / "a")[0, 0].tolist() == [255, 0, 0]


# ---------------------------------------------------------------------------------------------- the encoder's input


def real_processor_folder(shared_data: Path, folder: Path) -> Path:
    settings = json.loads((shared_data / "siglip_so400m_patch14_384.json").read_text(encoding="utf-8"))["preprocessor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("size", [(640, 480), (100, 333), (384, 384), (3, 1)])
def test_the_encoder_gets_what_siglip_was_trained_on(shared_data, tmp_path, size):
    noise = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    given = prepare_image(image, load_image_processor(str(real_processor_folder(shared_data, tmp_path))))
    resized = np.asarray(image.resize((384, 384), resample=3)).astype(np.float64)
    expected = ((resized / 255 - 0.5) / 0.5).transpose(2, 0, 1)
    assert given.shape == (3, 384, 384) and str(given.dtype) == "torch.float32"
    assert np.abs(given.numpy() - expected).max() < 1e-6  # one step of 8 bits would be 8e-3


def test_the_real_processor_is_read_without_a_word(shared_data, tmp_path, capfd, recwarn):
    processor = load_image_processor(str(real_processor_folder(shared_data, tmp_path)))
    assert type(processor).__name__ == "SiglipImageProcessorPil"
    assert processor.size["height"] == 384 and list(processor.image_mean) == [0.5] * 3
    assert capfd.readouterr() == ("", "") and not recwarn.list
    processor.save_pretrained(tmp_path / "again")
    again = load_image_processor(str(tmp_path / "again"))
    picture = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    assert np.array_equal(prepare_image(picture, again), prepare_image(picture, processor))


def test_a_folder_without_a_processor_or_with_another_encoders_is_refused(tmp_path):
    with pytest.raises(UserError, match="preprocessor_config.json"):
        load_image_processor(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Siglip2ImageProcessor"}')
    with pytest.raises(UserError, match="not a Siglip2ImageProcessor"):
        load_image_processor(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{broken")
    with pytest.raises(UserError, match="preprocessor_config.json"):
        load_image_processor(str(tmp_path))
