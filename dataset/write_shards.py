"""What process_image.py wrote, as tar shards for data.stream.

python -m dataset.write_shards --config demo.yaml --output data/demo/shards
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from itertools import islice
from pathlib import Path

from common.errors import UserError
from common.files import publish_file, temp_path
from dataset.conversations import SPLITS, read_conversations
from dataset.shards import IMAGES, kind_of
from settings import Config, add_config_arguments, load_config, require_paths


def write_shards(config: Config, output: Path, size: int) -> list[Path]:
    """Tars of ``size`` images each: train-000000.tar, ..., validation-000000.tar, ..."""
    written: list[Path] = []
    for split in SPLITS:
        paths, conversations = read_conversations(config.data.image_map, config.data.annotations, split)
        groups: dict[tuple[int, ...], list[dict]] = {}
        for _, conversation in conversations:
            kept = {key: value for key, value in conversation.items() if key != "images"}
            groups.setdefault(tuple(conversation["images"]), []).append(kept)
        entries = iter(groups.items())
        for number in range(-(-len(groups) // size)):
            records = enumerate(islice(entries, size), start=number * size)
            shard = output / f"{split}-{number:06}.tar"
            temporary = temp_path(shard)
            try:
                with tarfile.open(temporary, "w", dereference=True) as tar:
                    for record, (images, talks) in records:
                        _add_record(tar, f"{record:09}", [Path(paths[image]) for image in images], talks)
                publish_file(temporary, shard)
            finally:
                temporary.unlink(missing_ok=True)
            written.append(shard)
    return written


def _add_record(tar: tarfile.TarFile, key: str, images: list[Path], conversations: list[dict]) -> None:
    for number, path in enumerate(images):
        kind = kind_of(path.name)
        tar.add(path, f"{key}.{number}.{kind if kind in IMAGES else 'jpg'}", recursive=False)
    text = json.dumps(conversations, ensure_ascii=False).encode()
    member = tarfile.TarInfo(f"{key}.json")
    member.size = len(text)
    tar.addfile(member, io.BytesIO(text))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write what process_image.py wrote as tar shards for data.stream.",
        epilog="example: python -m dataset.write_shards --config demo.yaml --output data/demo/shards",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder for the shards")
    parser.add_argument("--size", type=int, default=1000, help="images in a shard (default: 1000)")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    try:
        config = load_config(args.config, args.overrides)
        require_paths(config, "data.image_map", "data.annotations")
        if config.data.has_boxes:
            raise UserError(
                "data.sources: boxes cannot be written to shards, whose readers take marks of boxes for text"
            )
        args.output.mkdir(parents=True, exist_ok=True)
        written = write_shards(config, args.output, max(1, args.size))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename or args.output}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    for path in written:
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
