"""Reading images: how many per second one core decodes and prepares, by size.

    python -m benchmarks.loader

Each is a JPEG of smooth noise, read and prepared as in training: decode, orientation, RGB, the encoder's processor at
384 px. On a machine with n cores, ``train.dataloader_num_workers: n`` reads about n times as many.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from benchmarks.common import finish, parser
from dataset.image import load_image, prepare_image

SIZES = ((640, 480), (1280, 960), (1920, 1440), (4032, 3024))


def write_jpeg(path: Path, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = (torch.rand(24, 32, 3, generator=generator) * 255).byte().numpy()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def seconds_per_image(path: Path, processor, most: float = 2.0) -> list[float]:
    taken: list[float] = []
    while sum(taken) < most:
        begin = time.perf_counter()
        prepare_image(load_image(path), processor)
        taken.append(time.perf_counter() - begin)
    return taken[1:] or taken


def main() -> None:
    args = parser(__doc__, ["cpu"]).parse_args()
    torch.set_num_threads(1)
    processor = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = Path(folder) / "image.jpg"
            write_jpeg(path, size)
            taken = seconds_per_image(path, processor)
            rows.append(
                {
                    "": f"{size[0]} x {size[1]}",
                    "images/s per core": 1 / statistics.median(taken),
                    "ms": 1000 * statistics.median(taken),
                    "least ms": 1000 * min(taken),
                    "most ms": 1000 * max(taken),
                }
            )
    finish(rows, args)


if __name__ == "__main__":
    main()
