"""All of the preparation, in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.hub import model_folder
from dataset.boxes import Crop, crop_of
from dataset.preparing.check import check_images
from dataset.preparing.machines import read_shards, shard_file
from dataset.preparing.report import SizesBy, change_lines, counted, few_lines, picture_lines, size_table
from dataset.preparing.skipped import check_images_share, check_records_share, skip_list, unusable_lines
from dataset.preparing.sources import drop_unusable, files_of, find_images, merge
from dataset.preparing.split import choose_splits
from dataset.preparing.write import write_results
from settings import Config, require_paths


def crop_of_tower(config: Config) -> Crop | None:
    """What the tower's processor cuts off the pictures.

    Raises:
        UserError: the tower's folder is missing, or has no readable preprocessor_config.json.
    """
    folder = model_folder(config.vision.path, "vision.path")
    try:
        settings = json.loads((Path(folder) / "preprocessor_config.json").read_text(encoding="utf-8"))
        crop = crop_of(settings)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"vision.path: {folder} has no readable preprocessor_config.json ({error})") from None
    size = config.vision.image_size
    return crop if crop is None or size is None else Crop(size, size)


def prepare(config: Config, shard_commands: Sequence[str] = ()) -> None:
    """Read, check, process, split, write, and print the sizes.

    Args:
        shard_commands: the commands that checked the images on as many machines; their findings replace the check.

    Raises:
        UserError: nothing was written.
    """
    data, shards = config.data, len(shard_commands)
    require_paths(config, "data.sources", "data.validation", "data.test")
    parts = find_images(data)
    files = files_of(parts)
    if shards:
        unusable = read_shards(data, files, shard_commands)
    else:
        unusable = check_images(files, max_pixels=data.max_pixels, workers=data.workers, progress=data.progress)
    drop_unusable(parts, unusable)
    check_images_share(parts, data.max_skipped)
    image_map, conversations = merge(parts, data, crop_of_tower(config) if data.has_boxes else None)
    check_records_share(parts, data.max_skipped)
    splits, unmatched = choose_splits(data, parts, image_map, conversations)
    sizes: SizesBy = {}
    annotations = counted(conversations, splits, sizes)
    write_results(
        {data.image_map: iter(image_map.items()), data.skipped: skip_list(parts), data.annotations: annotations}
    )
    for number in range(1, shards + 1):
        shard_file(data, number, shards).unlink(missing_ok=True)
    lines = [size_table(parts, sizes), *unmatched, *few_lines(data, sizes), *picture_lines(parts, sizes)]
    print(*lines, *change_lines(parts), *unusable_lines(parts), sep="\n")
    print(f"wrote {data.image_map} and {data.annotations}, and what cannot be used to {data.skipped}")
