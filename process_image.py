"""Raw annotations to the two files that training reads: which images there are, and what is said about them.

    python process_image.py --config config.yaml

Records come in any format of dataset/converters, among them AI Challenger captions (:func:`process_ali`) and LLaVA
conversations (:func:`process_coco`). Every image is decoded once, so that a damaged file is found now and not after
hours of training. What cannot be used is listed with its reason; above ``data.max_skipped`` nothing is written.

Every random choice depends on the seed, the source's name and the record's number alone: the same input gives the
same bytes, on any number of processes, and other skipped records change nothing. The work is done in dataset/preparing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from common.command import typed_command
from common.errors import exit_status
from common.text import prepare_console
from dataset.preparing.json_reader import read_json
from dataset.preparing.machines import check_shard
from dataset.preparing.process import process_ali, process_coco
from dataset.preparing.run import prepare
from evaluation.scores import check_metrics
from settings import add_config_arguments, load_config, require_paths

__all__ = ["main", "process_ali", "process_coco", "read_json"]


_EXAMPLE = """\
example of a config's data section, with sources of some formats (docs/data.md has all ten):

  data:
    sources:
      - {name: captions, format: ali, annotations: captions.json, images: photos}
      - {name: chats, format: llava, annotations: [a.json, b.json], images: [train2017, val2017]}
      - {name: table, annotations: table.csv, images: photos}   # format: auto finds out what a file is
    image_map: data/image_map.json
    annotations: data/annotations.json
    skipped: data/skipped.json

a record of captions.json (AI Challenger):

  {"image_id": "8f00.jpg", "caption": ["两个人在路上交谈", "..."]}

a record of a.json (LLaVA); <image> may be anywhere in a question, a record without "image" is text only:

  {"image": "000000458752.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is he doing?"},
                                                  {"from": "gpt", "value": "Pitching."}]}

what a file would be read as:

  python -m dataset.describe table.csv --images photos

then:

  python process_image.py --config config.yaml
  python process_image.py --config config.yaml data.test=0.1 data.progress=false

checking the images on three machines that see the same files, then everything else on one:

  python process_image.py --shard 1/3           # and 2/3, 3/3 on the others
  python process_image.py --merge 3             # the same bytes as without shards

looking for faults in the result (duplicates, labels of another set, ...); changes nothing, exit status 1 with findings:

  python process_image.py --check
"""


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N, such as 2/8, the second of eight parts")
    return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Check every image and turn raw annotations into the files that training reads.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--shard", metavar="I/N", type=_shard, help="only check the I-th of N parts of the images")
    parts.add_argument("--merge", metavar="N", type=int, default=0, help="continue with what N shards have found")
    parts.add_argument("--check", action="store_true", help="look for faults in what was written, and change nothing")
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    prepare_console()
    args = _parser().parse_intermixed_args(argv)
    return exit_status(lambda: run(args), "interrupted: nothing was written")


def run(args: argparse.Namespace) -> int:
    """Read and check, one shard, or all. Returns the exit status: 1 if --check found faults."""
    config = load_config(args.config, args.overrides)
    check_metrics(config.data.sources)
    if args.check:
        from dataset.doctor.report import check_data  # imports numpy, which --help does not need

        return 1 if check_data(config) else 0
    if args.shard:
        number, count = args.shard
        require_paths(config, "data.sources")
        check_shard(config.data, number, count)
        print(f"when all {count} are there: {typed_command(['--merge', str(count)], drop_with_value=['--shard'])}")
    else:
        shards = [["--shard", f"{number}/{args.merge}"] for number in range(1, args.merge + 1)]
        prepare(config, [typed_command(shard, drop_with_value=["--merge"]) for shard in shards])
    return 0


if __name__ == "__main__":
    sys.exit(main())
