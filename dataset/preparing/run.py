"""All of the preparation, in order."""

from __future__ import annotations

from collections.abc import Sequence

from dataset.preparing.check import check_images
from dataset.preparing.machines import read_shards, shard_file
from dataset.preparing.report import SizesBy, change_lines, counted, few_lines, picture_lines, size_table
from dataset.preparing.skipped import check_images_share, check_records_share, skip_list, unusable_lines
from dataset.preparing.sources import drop_unusable, files_of, find_images, merge
from dataset.preparing.split import choose_splits
from dataset.preparing.write import write_results
from settings import Config, require_paths


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
    image_map, conversations = merge(parts, data)
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
