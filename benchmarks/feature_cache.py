"""The feature cache: what an image costs with it and without, and when filling it has paid.

    python -m benchmarks.feature_cache
    python -m benchmarks.feature_cache --preset qwen2.5-0.5b --images 8    # the tower is so400m: slow on a CPU

"prepare" is what the loader's processes do for an image of 640 x 480 (decoding, resizing, one core), "tower" what the
device does behind it, "read" what the cache does in place of both. The files were just written, so reading them is
reading memory: add what your disk takes for the megabytes of an image. The last line says after how many epochs
filling the cache (prepare, tower, write) has been won back, as if the loader had cores enough to hide "prepare"; where
reading is no faster than the tower, never.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from benchmarks.common import PRESETS, configs, device_and_dtype, finish, parser, synchronise
from benchmarks.loader import write_jpeg
from dataset.image import load_image, prepare_image
from model.feature_cache import FeatureCache
from model.model import quiet_libraries
from visual.SIGLIP_VIT import SiglipViT


def milliseconds(work: Callable, items: Iterable) -> list[float]:
    """Of ``work`` on each item but the first, which warms up."""
    taken = []
    for item in items:
        synchronise()
        begin = time.perf_counter()
        work(item)
        synchronise()
        taken.append(1000 * (time.perf_counter() - begin))
    return taken[1:]


def save_tower(folder: Path, config: SiglipVisionConfig, dtype: torch.dtype) -> SiglipViT:
    """A tower of random weights, saved as a hub's folder so that the cache can name its features after it."""
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
                file.write(bytes([number % 256, number // 256]))  # behind the picture: another file, another feature
        pixels = []
        prepare = milliseconds(lambda path: pixels.append(prepare_image(load_image(path), processor)), paths)
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
    print(
        f"{size / 1e6:.2f} MB an image; won back after {f'{fill / won:.1f} epochs' if won > 0 else 'no epoch at all'}"
    )


if __name__ == "__main__":
    main()
