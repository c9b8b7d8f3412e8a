"""Score a checkpoint, and find out whether it looks at the picture.

    python evaluate.py --checkpoint checkpoints/demo --output result.json
    python evaluate.py --checkpoint checkpoints/demo --split train --limit 500 generate.batch_size=32
    torchrun --nproc-per-node 8 evaluate.py --checkpoint checkpoints/demo          # eight GPUs share the questions

Captions are scored by BLEU, ROUGE-L and CIDEr; all other answers by exact match after normalisation, and by VQA
accuracy if ten people answered.

An accuracy says little alone. The report compares it with four baselines that do not look at the picture: the majority
answer, the most common answer to each question text, and the model itself with another picture and with none.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from dataset.conversations import SPLITS

if TYPE_CHECKING:
    from evaluation.questions import Question
    from settings import Config


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        return evaluate(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first answer; nothing written", file=sys.stderr)
        return 130


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a checkpoint and test whether it looks at the picture.")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run's folder")
    parser.add_argument("--split", choices=SPLITS, help="default: test; of given files, everything")
    parser.add_argument("--image-map", type=Path, metavar="FILE", help="other data than the run's, with --annotations")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="other data than the run's, with --image-map")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only N questions, drawn from all of the data")
    metric = "score a source's questions by another metric than the config's; NAME alone: those of all sources"
    parser.add_argument("--metric", action="append", default=[], metavar="[SOURCE=]NAME", help=metric)
    parser.add_argument("--no-probes", action="store_true", help="do not ask again with another picture and with none")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--verify", action="store_true", help="read the base models' files again to check their hashes")
    parser.add_argument("--output", type=Path, default=Path("result.json"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="generate.KEY=VALUE", help="change how answers are decoded")
    args = parser.parse_intermixed_args(argv)
    if (args.image_map is None) != (args.annotations is None):
        parser.error("--image-map and --annotations go together")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def evaluate(args: argparse.Namespace) -> int:
    """Check everything that can be checked without a model, then ask, score, write and print. Returns the status."""
    begin = time.monotonic()
    from answering.checkpoints import open_config
    from answering.devices import check_device
    from evaluation.questions import choose_metrics, read_questions, sample
    from evaluation.report import check_output, check_packages

    for text in args.overrides:
        if not text.startswith("generate."):
            raise UserError(
                f"command line: {text}: only generate.KEY=VALUE can be changed here, such as generate.batch_size=32"
            )
    check_device(args.device)
    config = open_config(args.checkpoint, args.overrides)
    files = (args.image_map, args.annotations) if args.image_map else None
    asked, train, data = read_questions(config, args.split, files)
    metrics = choose_metrics(asked, config, args.metric)
    questions = sample(asked, args.limit, config.data.seed)
    check_packages(questions)
    check_output(args.output)
    facts = {"data": data, "limit": args.limit, "seed": config.data.seed, "metrics": metrics}
    return score_model(args, config, questions, train, facts, begin)


def score_model(
    args: argparse.Namespace,
    config: Config,
    questions: list[Question],
    train: list[Question] | None,
    facts: dict,
    begin: float,
) -> int:
    """Load the model, which takes seconds, ask it, and report. Returns the exit status."""
    import torch

    from answering.assistant import Assistant
    from evaluation.asking import Pictures, ask_all
    from evaluation.baselines import fit_baselines
    from evaluation.html.content import write_report
    from evaluation.report import build_result, show, write_result
    from model.model import quiet_libraries
    from training import distributed

    quiet_libraries()
    distributed.only_first_speaks()
    device = args.device
    if device is None and distributed.world_size() > 1 and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    pictures = Pictures(config.data.max_pixels)
    try:
        assistant = Assistant.load(Path(args.checkpoint), device, verify=args.verify)
        torch.manual_seed(config.data.seed)  # used by sampled decoding only
        complete = ask_all(assistant, questions, config.generate, pictures, probes=not args.no_probes)
    except torch.OutOfMemoryError as error:
        raise UserError("out of GPU memory; ask fewer questions at once: generate.batch_size=1") from error
    if complete:  # after Ctrl-C the other processes may never come here
        distributed.leave_together()
        if all(question.prediction is None for question in questions):
            raise UserError(f"none of the {len(questions)} questions could be asked; the first: {questions[0].problem}")
    if distributed.rank():
        return 0  # the first process scores and writes
    facts = {"complete": complete, **facts, "baselines_fitted_on": fit_baselines(questions, train)}
    facts |= {"checkpoint": Path(assistant.checkpoint or args.checkpoint).as_posix(), "device": assistant.device}
    facts |= {"system": config.language.system, "generate": config.generate.model_dump()}
    result = build_result(questions, pictures.unreadable, facts)
    result["seconds"] = round(time.monotonic() - begin, 1)
    write_result(args.output, result)  # before printing: a terminal that fails must not lose the result
    print(show(result))
    page = write_report(result, args.output, config.data.max_pixels)
    print(f"Every prediction is in {args.output}; {page} shows them with their pictures, in a browser.")
    if not complete:
        print(f"interrupted: {result['answered']} of {len(questions)} questions answered", file=sys.stderr)
    return 0 if complete else 130


if __name__ == "__main__":
    sys.exit(main())
