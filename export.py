"""Write a checkpoint as a folder that other programs open.

    python export.py --checkpoint checkpoints/demo --output exported
    python export.py --checkpoint checkpoints/demo --output exported --dtype fp32 --check 100
    python export.py --checkpoint checkpoints/demo --output exported-gguf --format gguf --keep-first-patch
    python export.py --checkpoint checkpoints/demo --output exported-onnx --format onnx --dtype int8 --check 200

The export is opened again and compared with the checkpoint before it gets its name. docs/serving.md has the commands
for each program.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from answering.checkpoints import add_base_arguments, base_overrides
from answering.exporting.formats import FORMATS, NORMS, Options
from common.errors import UserError, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    return exit_status(lambda: run(args), "\ninterrupted; nothing was exported")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="DIR", help="a checkpoint, or a run's folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="a folder that does not exist yet")
    about = "; ".join(f"{name}: {entry.about}" for name, entry in FORMATS.items())
    parser.add_argument("--format", choices=FORMATS, default="hf", help=f"{about} (default: %(default)s)")
    parser.add_argument(
        "--norm",
        choices=NORMS,
        help="how to keep SigLIP's final norm; block (default): one more block, right "
        "everywhere; tie: a key in config.json, which vLLM's own LLaVA ignores",
    )
    parser.add_argument(
        "--keep-first-patch",
        action="store_true",
        help="gguf: show the first patch to a model trained without it (vision.drop_first_token: true); not exact",
    )
    dtypes = "; ".join(f"{name}: {' or '.join(entry.dtypes)}" for name, entry in FORMATS.items())
    parser.add_argument("--dtype", help=f"of the weights; {dtypes} (default: the first)")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="ask N held-out questions of both models")
    parser.add_argument("--result", type=Path, metavar="FILE", help="evaluate.py's result, for the model card")
    add_base_arguments(parser)
    args = parser.parse_args(argv)
    allowed = FORMATS[args.format].dtypes
    args.dtype = args.dtype or allowed[0]
    if args.dtype not in allowed:
        fp16 = args.format == "hf" and args.dtype in ("fp16", "f16")
        hint = ": fp16 ends at 65,504, and --norm block needs larger numbers" if fp16 else ""
        parser.error(f"--dtype {args.dtype}: the format {args.format} takes {' or '.join(allowed)}{hint}")
    if args.keep_first_patch and args.format != "gguf":
        parser.error(f"--keep-first-patch: the format {args.format} leaves the first patch out as the run does")
    if args.check < 0:
        parser.error("--check must be at least 0")
    if args.dtype == "int8" and not args.check:
        parser.error("--dtype int8: needs --check N, the held-out questions on which its loss of accuracy is measured")
    return args


def run(args: argparse.Namespace) -> None:
    """Check everything that can be checked without a model, then export."""
    from answering.checkpoints import open_config
    from answering.exporting.card import read_result
    from evaluation.questions import read_questions, sample

    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"--output = {args.output}: exists already; name another folder, or remove it")
    config = open_config(args.checkpoint, base_overrides(args))
    result = read_result(args.result) if args.result else None
    questions = sample(read_questions(config, None, None)[0], args.check, config.data.seed) if args.check else []

    from answering.exporting.run import HeldOut, export
    from evaluation.asking import requests_of
    from model.model import quiet_libraries

    quiet_libraries()
    options = Options(args.format, args.dtype, args.norm, args.keep_first_patch)
    requests = requests_of(questions, config.data.max_pixels)
    held_out = HeldOut(requests, lambda number, answer: questions[number].score_of(answer))
    export(args.checkpoint, args.output, options, config, held_out, result)


if __name__ == "__main__":
    sys.exit(main())
