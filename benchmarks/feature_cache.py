"""The feature cache: what an image costs with and without it, and after how many epochs it saves time.

    python -m benchmarks.feature_cache
    python -m benchmarks.feature_cache --preset qwen2.5-0.5b --images 8    # the tower is so400m: slow on a CPU

"prepare" is what the loader's processes do for an image of 640 x 480 (decoding, resizing, one core), "tower" is what
the device does then, and "read" is what the cache does instead of both. The files were just written, so they are read
from memory: add the time that your disk needs for the megabytes of an image. The last line says after how many epochs
the cache has saved the time of filling it (prepare, tower, write), if the loader has enough cores to hide "prepare". If
reading is not faster than the tower, it never does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from benchmarks.common import PRESETS, configs, device_and_dtype, finish, parser, synchronise
from benchmarks.loader import LARGEST, write_jpeg
from dataset.image import load_image, prepare_image
from model.feature_cache import FeatureCache
from model.model import quiet_libraries
from visual.SIGLIP_VIT import SiglipViT


def milliseconds(work: Callable[[Any], object], items: Iterable[Any]) -> list[float]:
    """Of ``work`` on each item except the first, which warms up."""
    taken = []
    for item in items:
        synchronise()
        begin = time.perf_counter()
        work(item)
        synchronise()
        taken.append(1000 * (time.perf_counter() - begin))
    return taken[1:]


def save_tower(folder: Path, config: SiglipVisionConfig, dtype: torch.dtype) -> SiglipViT:
    """A tower of random weights, saved as a folder, by which the cache names its features."""
    SiglipVisionModel(config).to(dtype).save_pretrained(folder)
    return SiglipViT.from_pretrained(folder, dtype=dtype).eval()


def main() -> None:
    made = parser(__doc__, ["cpu", "tiny", "qwen2.5-0.5b"])
    made.add_argument("--images", type=int, default=32, metavar="N", help="images (default: %(default)s)")
    args = made.parse_args()
    quiet_libraries()
    (config, _), (device, dtype) = configs(PRESETS[args.preset]), device_and_dtype()
    processor = SiglipImageProcessorPil(size={"height": config.image_size, "width": config.image_size})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tower = save_tower(folder / "tower", config, dtype).to(device)
        paths = [str(folder / f"{number}.jpg") for number in range(args.images)]
        for number, path in enumerate(paths):
            write_jpeg(Path(path), (640, 480))
            with open(path, "ab") as file:
                file.write(bytes([number % 256, number // 256]))  # after the picture: a file of its own for the cache
        pixels: list[torch.Tensor] = []
        prepare = milliseconds(lambda path: pixels.append(prepare_image(load_image(path, LARGEST), processor)), paths)
        with torch.inference_mode():
            encode = milliseconds(lambda image: tower(image[None].to(device, dtype)), pixels)
        cache = FeatureCache(folder / "cache", tower, str(folder / "tower"), processor, 10**8)
        begin = time.perf_counter()
        assert cache.fill(paths, batch_size=1, progress=False) == args.images
        fill = 1000 * (time.perf_counter() - begin) / args.images
        read = milliseconds(lambda path: cache(path).to(device, copy=True), paths)
        size = sum(file.stat().st_size for file in cache.folder.iterdir()) / args.images
    steps = {"prepare": prepare, "tower": encode, "fill": [fill], "read": read}
    rows = [
        {"": name, "ms an image": statistics.median(taken), "least": min(taken), "most": max(taken)}
        for name, taken in steps.items()
    ]
    finish(rows, args)
    won = statistics.median(encode) - statistics.median(read)
    epochs = f"saves time after {fill / won:.1f} epochs" if won > 0 else "never saves time"
    print(f"{size / 1e6:.2f} MB an image; {epochs}")


if __name__ == "__main__":
    main()
