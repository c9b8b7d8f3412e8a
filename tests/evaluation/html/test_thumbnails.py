"""Small copies of pictures: their size, and what is said of a picture that cannot be read."""

from __future__ import annotations

import base64
import io

from PIL import Image

from evaluation.html.thumbnails import Thumbnails, data_uri, edge_for


def decoded(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_large_picture_is_reduced_and_a_small_one_is_kept():
    assert decoded(data_uri(Image.new("RGB", (1000, 500)), 320)).size == (320, 160)
    assert decoded(data_uri(Image.new("RGB", (40, 90)), 320)).size == (40, 90)


def test_the_picture_that_is_given_keeps_its_size():
    image = Image.new("RGB", (1000, 500))
    data_uri(image, 320)
    assert image.size == (1000, 500)


def test_the_more_pictures_the_smaller_their_copies():
    assert [edge_for(n, 20_000_000) for n in (1, 1000, 1001, 1818, 1819, 100_000)] == [320, 320, 224, 224, 160, 160]


def test_a_picture_is_read_once_and_one_that_cannot_be_read_keeps_the_reason(tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    shrink = Thumbnails(320, 10_000)
    first = shrink(str(tmp_path / "a.png"))
    assert decoded(first["src"]).size == (40, 40)
    (tmp_path / "a.png").unlink()
    assert shrink(str(tmp_path / "a.png")) is first
    assert shrink(str(tmp_path / "b.png")) == {"problem": "cannot be decoded: not an image in a known format"}
    assert shrink(str(tmp_path / "c.png")) == {"problem": "missing"}


def test_a_picture_above_the_runs_limit_is_not_decoded(tmp_path):
    Image.new("RGB", (200, 200)).save(tmp_path / "a.png")
    assert Thumbnails(320, 10_000)(str(tmp_path / "a.png"))["problem"].startswith("too large")
