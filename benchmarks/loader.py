"""Reading images: how many one core decodes and prepares per second, by size.

    python -m benchmarks.loader

Each is a JPEG of shapes and noise, read and prepared as in training: decode, orientation, RGB, the encoder's processor
at 384 px. On a machine with n cores, ``train.dataloader_num_workers: n`` reads about n times as many.

The last columns show why JPEG's draft mode (decoding at 1/2, 1/4 or 1/8 of the size) is not used: how much faster it
would be, and by how many of 255 levels ``pixel_values`` would differ at most. The processor itself rounds to whole
levels, so a difference of half a level would not matter.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import SiglipImageProcessorPil

from benchmarks.common import finish, parser
from dataset.image import load_image, prepare_image

LARGEST = 50_000_000  # pixels of a picture, as data.max_pixels is by default
SIZES = ((640, 480), (1280, 960), (1920, 1440), (4032, 3024))


def write_jpeg(path: Path, size: tuple[int, int]) -> None:
    """Smooth noise with sharp discs on it, whose radii are 1/200 to 1/20 of the width."""
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    noise = (torch.rand(24, 32, 3, generator=generator) * 255).byte().numpy()
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(200):
        x, y, radius = rng.random() * size[0], rng.random() * size[1], size[0] / rng.uniform(20, 200)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.choices(range(256), k=3)))
    picture.save(path, quality=90)


def load_draft(path: Path) -> Image.Image:
    """At the smallest of JPEG's own scales that is not below the processor's size."""
    image = Image.open(path)
    image.draft("RGB", (384, 384))
    return image.convert("RGB")


def seconds_per_image(
    load: Callable[[Path], Image.Image], path: Path, processor: Any, most: float = 2.0
) -> list[float]:
    """Of repeated loads for ``most`` seconds in all, without the first."""
    taken: list[float] = []
    while sum(taken) < most:
        begin = time.perf_counter()
        prepare_image(load(path), processor)
        taken.append(time.perf_counter() - begin)
    return taken[1:] or taken


def load_whole(path: Path) -> Image.Image:
    return load_image(path, LARGEST)


def main() -> None:
    args = parser(__doc__, ["cpu"]).parse_args()
    torch.set_num_threads(1)
    processor = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = Path(folder) / "image.jpg"
            write_jpeg(path, size)
            taken = seconds_per_image(load_whole, path, processor)
            drafted = seconds_per_image(load_draft, path, processor)
            whole, draft = (prepare_image(load(path), processor) for load in (load_whole, load_draft))
            rows.append(
                {
                    "": f"{size[0]} x {size[1]}",
                    "images/s per core": 1 / statistics.median(taken),
                    "ms": 1000 * statistics.median(taken),
                    "least ms": 1000 * min(taken),
                    "most ms": 1000 * max(taken),
                    "draft: times as fast": statistics.median(taken) / statistics.median(drafted),
                    "levels off": float((whole - draft).abs().max()) * 127.5,
                }
            )
    finish(rows, args)


if __name__ == "__main__":
    main()
