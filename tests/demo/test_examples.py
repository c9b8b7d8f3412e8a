"""The demo's example pictures, which are in the repository."""

from __future__ import annotations

from PIL import Image, ImageChops

from demo.examples import PICTURES, write_examples
from tests.helpers.tiny import REPO


def test_the_examples_in_the_repository_are_what_the_command_writes(tmp_path):
    write_examples(tmp_path)
    kept = REPO / "demo" / "examples"
    assert (tmp_path / "examples.json").read_bytes() == (kept / "examples.json").read_bytes()
    assert sorted(file.name for file in kept.iterdir()) == sorted(file.name for file in tmp_path.iterdir())
    for number in range(1, PICTURES + 1):  # the pixels: another zlib writes other bytes
        with Image.open(tmp_path / f"{number}.png") as drawn, Image.open(kept / f"{number}.png") as found:
            assert drawn.size == (112, 112) and ImageChops.difference(drawn, found).getbbox() is None
