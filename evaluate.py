"""Score a checkpoint or another model, and find out whether it looks at the picture.

    python evaluate.py --checkpoint checkpoints/demo --output result.json
    python evaluate.py --checkpoint checkpoints/demo --resume                      # after Ctrl-C or a crash
    python evaluate.py --checkpoint checkpoints/demo --split train --limit 500 generate.batch_size=32
    torchrun --nproc-per-node 8 evaluate.py --checkpoint checkpoints/demo          # eight GPUs share the questions
    python evaluate.py --config demo.yaml --model HuggingFaceTB/SmolVLM-256M-Instruct   # another model
    python evaluate.py --config demo.yaml --endpoint http://127.0.0.1:8000/v1 --model NAME

Captions are scored by BLEU, ROUGE-L and CIDEr; all other answers by the metric of their source, which is exact match
after normalisation by default, and by VQA accuracy too if ten people answered.

An accuracy says little alone. The report compares it, for each type of question, with four baselines that do not look
at the picture: the type's majority answer, the most common answer to each question text, and the model itself with
another picture and with none. `python -m evaluation.compare a.json b.json` compares two results.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from answering.checkpoints import add_checkpoint_arguments
from common.command import typed_command
from common.errors import UserError
from common.text import prepare_console
from dataset.conversations import SPLITS

if TYPE_CHECKING:
    from answering.assistant import Assistant
    from evaluation.answerer import Answerer
    from evaluation.questions import Question
    from evaluation.result import Result
    from settings import Config


def main(argv: Sequence[str] | None = None) -> int:
    prepare_console()
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
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint, or a run's folder")
    parser.add_argument("--model", metavar="NAME", help="a model of transformers instead, or of the server --endpoint")
    parser.add_argument(
        "--endpoint", metavar="URL", help="an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--config", metavar="FILE", help="the run whose questions --model is asked")
    parser.add_argument("--split", choices=SPLITS, help="default: test; of given files, everything")
    parser.add_argument("--image-map", type=Path, metavar="FILE", help="other data than the run's, with --annotations")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="other data than the run's, with --image-map")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only N questions, drawn from all of the data")
    metric = "score a source's questions by another metric than the config's; NAME alone: those of all sources"
    parser.add_argument("--metric", action="append", default=[], metavar="[SOURCE=]NAME", help=metric)
    parser.add_argument("--no-probes", action="store_true", help="do not ask again with another picture and with none")
    worse = "also ask 500 questions about worse pictures: noise, blur, hidden parts, low resolution"
    parser.add_argument("--corrupt", action="store_true", help=worse)
    parser.add_argument("--resume", action="store_true", help="ask only what an interrupted evaluation did not")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add_checkpoint_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("result.json"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a generate. key or data.max_pixels")
    args = parser.parse_intermixed_args(argv)
    if (args.image_map is None) != (args.annotations is None):
        parser.error("--image-map and --annotations go together")
    if (args.checkpoint is None) == (args.model is None):
        parser.error("name one model: --checkpoint, or --model (with --endpoint, the server's name for it)")
    if args.model is not None and args.config is None and args.image_map is None:
        parser.error("--model needs questions: --config FILE, or --image-map and --annotations")
    if args.checkpoint is not None and (args.config or args.endpoint):
        parser.error("--config and --endpoint go with --model; a checkpoint has its own config")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def evaluate(args: argparse.Namespace) -> int:
    """Check everything that can be checked without a model, then ask, score, write and print. Returns the status."""
    begin = time.monotonic()
    from answering.checkpoints import base_overrides, check_overrides, open_config
    from answering.devices import check_device
    from evaluation.other_models import other_config
    from evaluation.questions import choose_metrics, read_questions, sample
    from evaluation.report import check_output, check_packages
    from evaluation.resuming import find_unfinished, questions_hash

    check_device(args.device)
    if args.checkpoint:
        check_overrides(args.overrides)
        args.overrides = [*args.overrides, *base_overrides(args)]
        config = open_config(args.checkpoint, args.overrides)
    else:
        config = other_config(args)
    files = (args.image_map, args.annotations) if args.image_map else None
    asked, train, data = read_questions(config, args.split, files)
    metrics = choose_metrics(asked, config, args.metric)
    questions = sample(asked, args.limit, config.data.seed)
    check_packages(questions)
    check_output(args.output)
    facts = {
        "data": data,
        "limit": args.limit,
        "seed": config.data.seed,
        "system": config.language.system,
        "max_pixels": config.data.max_pixels,
        "generate": config.generate.model_dump(),
        "questions_sha256": questions_hash(questions),
    }
    unfinished = find_unfinished(args.output, facts, args.resume)
    return score_model(args, config, questions, train, {**facts, "metrics": metrics}, unfinished, begin)


def score_model(
    args: argparse.Namespace,
    config: Config,
    questions: list[Question],
    train: list[Question] | None,
    facts: dict,
    unfinished: Result | None,
    begin: float,
) -> int:
    """Load the model, which takes seconds, ask it, and report. Returns the exit status."""
    import torch

    from answering.assistant import Assistant
    from evaluation.asking import Pictures, ask_all
    from evaluation.baselines import fit_baselines
    from evaluation.endpoint import ServerFailed
    from evaluation.report import build_result, show, write_result
    from evaluation.resuming import Saver, check_same, restore
    from training import distributed

    answerer, identity = load_answerer(args, config)
    facts |= {**identity, "device": answerer.device}
    torch.manual_seed(facts["seed"])  # used by sampled decoding only
    if unfinished:
        check_same(args.output, unfinished, {"checkpoint_sha256": identity["checkpoint_sha256"]})
        for name, count in unfinished.get("tokens", {}).items():
            facts["tokens"][name] += count
        print(f"{restore(questions, unfinished)} of {len(questions)} questions are answered in {args.output}")
    pictures = Pictures(config.data.max_pixels)
    earlier = unfinished["seconds"] if unfinished else 0.0

    def write(complete: bool) -> dict:
        facts["baselines_fitted_on"] = fit_baselines(questions, train)
        result = build_result(questions, pictures.unreadable, {"complete": complete, **facts})
        result["seconds"] = round(earlier + time.monotonic() - begin, 1)
        if not distributed.rank():
            write_result(args.output, result)
        return result

    save = Saver(lambda: write(complete=False), idle=bool(distributed.rank()))
    try:
        complete = ask_all(answerer, questions, config, pictures, not args.no_probes, save)
    except torch.OutOfMemoryError as error:
        write(complete=False)
        raise UserError("out of GPU memory; add --resume and ask fewer at once: generate.batch_size=1") from error
    except ServerFailed as error:
        write(complete=False)
        raise UserError(f"{error}; what was answered is in {args.output}, --resume asks the rest") from error
    if complete:  # after Ctrl-C the other processes may never come here
        distributed.leave_together()
        if all(question.prediction is None for question in questions):
            raise UserError(f"none of the {len(questions)} questions could be asked; the first: {questions[0].problem}")
    if distributed.rank():
        return 0  # the first process scores and writes
    result = write(complete)  # before anything else that can fail or be interrupted
    if complete and not args.no_probes and isinstance(answerer, Assistant):
        add_sight(result, answerer, questions, args.output)
    if complete and args.corrupt:
        add_corruptions(result, answerer, questions, config, args.output)
    print(show(result))
    show_page(result, args.output)
    if not complete:
        answered = f"{result['answered']} of {len(questions)} questions answered"
        print(f"interrupted: {answered}; to continue: {typed_command(add=['--resume'])}", file=sys.stderr)
    return 0 if complete else 130


def add_sight(result: dict, assistant: Assistant, questions: list[Question], output: Path) -> None:
    """Measure the loss with another picture and write it into the result. Ctrl-C and full GPU memory leave it out."""
    import torch

    from evaluation.report import write_result
    from evaluation.sight import measure_sight

    try:
        result["sight"] = measure_sight(assistant, questions)
    except (KeyboardInterrupt, torch.OutOfMemoryError) as error:
        reason = "out of GPU memory" if isinstance(error, torch.OutOfMemoryError) else "interrupted"
        print(f"the loss with another picture is not measured ({reason})", file=sys.stderr)
        return
    write_result(output, result)


def add_corruptions(result: dict, answerer: Answerer, questions: list[Question], config: Config, output: Path) -> None:
    """Ask about worse pictures and write the scores into the result. Ctrl-C leaves them out."""
    from evaluation.corrupting import measure_corruptions, show_corruptions
    from evaluation.report import write_result

    try:
        result["corruptions"] = measure_corruptions(answerer, questions, config)
    except KeyboardInterrupt:
        print("the scores with worse pictures are not measured (interrupted)", file=sys.stderr)
        return
    write_result(output, result)
    print(show_corruptions(result["corruptions"]))


def show_page(result: dict, output: Path) -> None:
    """Write the page with the pictures, which takes 15 ms a picture, and say where all is. Ctrl-C leaves it out."""
    from evaluation.html.content import write_report

    try:
        page = f"{write_report(result, output)} shows them with their pictures, in a browser."
    except KeyboardInterrupt:
        page = f"The page with their pictures was interrupted: {output.with_suffix('.html')} is not written."
    print(f"Every prediction is in {output}. {page}")


def load_answerer(args: argparse.Namespace, config: Config) -> tuple[Answerer, dict[str, Any]]:
    """The model that answers, and what the result file says it is: its name and a hash by which --resume knows it."""
    import torch

    from answering.opening import assistant_of
    from evaluation.other_models import open_other
    from evaluation.resuming import checkpoint_hash
    from model.model import quiet_libraries
    from training import distributed

    quiet_libraries()
    distributed.only_first_speaks()
    device = args.device
    if device is None and distributed.world_size() > 1 and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        if args.model:
            return open_other(args, config, device)
        opened = assistant_of(Path(args.checkpoint))
        assistant = opened.load(Path(args.checkpoint), device, verify=args.verify, overrides=args.overrides)
    except torch.OutOfMemoryError as error:
        raise UserError("out of GPU memory: the model does not fit") from error
    checkpoint = Path(assistant.checkpoint or args.checkpoint)
    identity = {"checkpoint": checkpoint.as_posix(), "checkpoint_sha256": checkpoint_hash(checkpoint)}
    return assistant, {**identity, "crop": assistant.crop, "baseline": assistant.baseline}


if __name__ == "__main__":
    sys.exit(main())
