"""process_image.py on many records: peak memory and records per second.

    python -m benchmarks.preprocessing --records 2000000 --images 500000

The records are made up, LLaVA's and AI Challenger's in halves, one turn or several, their texts as long as real ones.
All images are links to one tiny picture: what is measured is reading, finding, grouping, splitting and writing; what
checking costs is in `python -m benchmarks.loader`, and is shared out with --shard.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path

import yaml
from PIL import Image

from dataset.preparing import run
from settings import load_config

WORDS = "the a man holds an orange ball near two old trees while his dog looks at it".split()


def write_records(folder: Path, records: int, images: int) -> None:
    rng = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    with open(folder / "chats.jsonl", "w", encoding="utf-8") as file:
        for number in range(records // 2):
            turns = [
                {"from": who, "value": text(6, 14) if who == "human" else text(5, 40)}
                for _ in range(rng.choice([1, 1, 1, 4]))
                for who in ("human", "gpt")
            ]
            record = {"id": str(number), "image": name(rng.randrange(images)), "conversations": turns}
            file.write(json.dumps(record) + "\n")
    with open(folder / "captions.json", "w", encoding="utf-8") as file:
        file.write("[")
        for number in range(records - records // 2):
            record = {"image_id": name(rng.randrange(images)), "caption": [text(8, 12) for _ in range(5)]}
            file.write(("," if number else "") + json.dumps(record))
        file.write("]")


def name(number: int) -> str:
    return f"{number // 1000:05d}/{number:09d}.png"


def link_images(folder: Path, images: int) -> None:
    Image.new("RGB", (2, 2)).save(folder / "one.png")
    for number in range(images):
        path = folder / name(number)
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
            shutil.copyfile(folder / "one.png", path)  # a file has at most some ten thousand names
        else:
            os.link(folder / name(number // 1000 * 1000), path)


def measured(file: Path, pipe) -> None:
    """In a process of its own, so that the peak is that of the preprocessing alone."""
    run.check_images = lambda files, **options: {}
    config = load_config(file)  # which imports transformers and peft: half a gigabyte before the first record
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, used = time.perf_counter(), time.process_time()
    run.prepare(config)
    taken, used = time.perf_counter() - begin, time.process_time() - used
    pipe.send((taken, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, before * 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--output", type=Path, help="also write the numbers as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        link_images(folder, args.images)
        write_records(folder, args.records, args.images)
        sources = [
            {"name": "chats", "format": "coco", "annotations": str(folder / "chats.jsonl"), "images": str(folder)},
            {"name": "captions", "format": "ali", "annotations": str(folder / "captions.json"), "images": str(folder)},
        ]
        outputs = {key: str(folder / f"out.{key}.json") for key in ("image_map", "annotations", "skipped")}
        models = {"vision": {"path": "a/b"}, "language": {"path": "c/d"}}
        config = {"data": {"sources": sources, **outputs, "progress": False}, **models}
        (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=measured, args=(folder / "run.yaml", theirs))
        process.start()
        theirs.close()
        taken, used, peak, before = ours.recv()
        process.join()
    numbers = {
        "records": args.records,
        "images": args.images,
        "seconds": round(taken, 1),
        "processor_seconds": round(used, 1),
        "records_per_second": round(args.records / taken),
        "records_per_processor_second": round(args.records / used),
        "peak_gib": round(peak / 2**30, 2),
        "before_gib": round(before / 2**30, 2),
    }
    print(json.dumps(numbers, indent=2))
    if args.output:
        args.output.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
