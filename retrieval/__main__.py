"""Find pictures by words or by another picture, name them by labels, and tune the two towers that do it.

python -m retrieval index photos/ --model google/siglip-base-patch16-224     # again: only what is new
python -m retrieval search "a red bus at night" --top 10 --html found.html
python -m retrieval search --image bus.jpg
python -m retrieval classify photos/ --labels cat,dog,bus
python -m retrieval evaluate --config config.yaml --model google/siglip-base-patch16-224
python -m retrieval train --config config.yaml train.run=towers              # --resume continues
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import exit_status
from common.text import prepare_console
from dataset.conversations import SPLITS
from settings.arguments import add_config_arguments

INDEX = Path("data/index")
EVALUATE = """Score the two towers, and write a result file and a page with the pictures, as evaluate.py does.

On the captions of a config, each caption looks for its picture and each picture for its caption:
  python -m retrieval evaluate --config demo.yaml --model checkpoints/towers/checkpoint-240
On a folder such as pets/cat/*.jpg, pets/dog/*.jpg each picture gets one of the labels cat and dog:
  python -m retrieval evaluate --classes pets --model google/siglip-base-patch16-224 --output pets.json
Two results beside each other, such as before and after training, or towers and a language model on the same captions:
  python -m evaluation.compare before.json after.json"""


def main(argv: Sequence[str] | None = None) -> int:
    prepare_console()
    args = parse_arguments(argv)
    from retrieval import commands

    interrupted = "interrupted; what was finished is kept, and the same command continues"
    return exit_status(lambda: getattr(commands, args.command)(args), interrupted)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    given = list(sys.argv[1:] if argv is None else argv)
    return parse_training(given[1:]) if given[:1] == ["train"] else parse_command(given)


def parse_training(argv: list[str]) -> argparse.Namespace:
    """Apart from the other commands, because overrides KEY=VALUE may stand between its options."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval train",
        description="Tune both towers on captions (vision.train, language.train: frozen, lora or full). Where "
        "vision.path has no text tower, a new one is trained with the tokenizer of language.path.",
    )
    parser.add_argument("--loss", choices=("softmax", "sigmoid"), help="CLIP's or SigLIP's (default: the model's own)")
    for name, default, what in (
        ("width", 256, "hidden size"),
        ("layers", 4, "layers"),
        ("length", 64, "most tokens of a text"),
    ):
        text = f"{what} of a new text tower (default: {default})"
        parser.add_argument(f"--text-{name}", type=int, metavar="N", help=text)
    parser.add_argument("--resume", action="store_true", help="continue the run from its latest checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="delete the run's earlier checkpoints and start over")
    add_config_arguments(parser)
    return argparse.Namespace(command="train", **vars(parser.parse_intermixed_args(argv)))


def parse_command(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m retrieval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    model = "SigLIP or CLIP with both towers: a folder, a hub name, or a checkpoint of train"
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    index = argparse.ArgumentParser(add_help=False, parents=[device])
    index.add_argument("--index", type=Path, default=INDEX, metavar="DIR", help="default: %(default)s")
    sheet = argparse.ArgumentParser(add_help=False)
    shown = "write a contact sheet (default name: %(const)s)"
    sheet.add_argument("--html", nargs="?", type=Path, const=Path("found.html"), metavar="FILE", help=shown)

    one = commands.add_parser("index", parents=[index], help="make the vectors of the pictures under a folder")
    one.add_argument("folder", type=Path)
    one.add_argument("--model", help=f"{model}; needed the first time")

    one = commands.add_parser("search", parents=[index, sheet], help="the pictures nearest to a text or a picture")
    one.add_argument("text", nargs="?")
    one.add_argument("--image", type=Path, metavar="FILE", help="a picture instead of a text")
    one.add_argument("--top", type=int, default=10, metavar="N", help="default: %(default)s")

    one = commands.add_parser("classify", parents=[index, sheet], help="the label of each picture under a folder")
    one.add_argument("folder", type=Path)
    one.add_argument("--labels", required=True, metavar="A,B,...")
    one.add_argument("--template", action="append", default=[], metavar="TEXT", help="a sentence with {} for the label")
    one.add_argument("--model", help=f"{model}; needed the first time")

    one = commands.add_parser(
        "evaluate",
        parents=[device],
        help="Recall@1/5/10 on captions, or zero-shot accuracy",
        description=EVALUATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("--model", required=True, help=model)
    one.add_argument("--config", default="config.yaml", metavar="FILE", help="whose captions (default: %(default)s)")
    one.add_argument("--split", choices=SPLITS, default="test", help="default: %(default)s")
    one.add_argument("--language", choices=("en", "zh"), help="captions of one language (default: all)")
    folders = "zero-shot accuracy instead: a folder with a folder of pictures for each label"
    one.add_argument("--classes", type=Path, metavar="DIR", help=folders)
    sentence = "a sentence with {} for the label, of --classes; several are averaged"
    one.add_argument("--template", action="append", default=[], metavar="TEXT", help=sentence)
    written = "the result file; the page is beside it, as .html (default: %(default)s)"
    one.add_argument("--output", type=Path, default=Path("result.json"), metavar="FILE", help=written)

    commands.add_parser("train", help="contrastive fine-tuning of both towers; `train --help` says more")

    args = parser.parse_args(argv)
    if args.command == "search" and ((args.text is None) == (args.image is None) or args.top < 1):
        parser.error("search for a text or an --image, and for at least one picture")
    if args.command == "evaluate" and args.template and not args.classes:
        parser.error("--template goes with --classes")
    return args


if __name__ == "__main__":
    sys.exit(main())
