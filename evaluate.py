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
from common.errors import UserError, exit_status
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
    return exit_status(lambda: evaluate(args), "interrupted before the first answer; nothing written")


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
    evaluation = Evaluation(args, config, questions, train, {**facts, "metrics": metrics}, begin)
    return run(evaluation, unfinished)


def run(evaluation: Evaluation, unfinished: Result | None) -> int:
    """Load the model, which takes seconds, ask it, and report. Returns the exit status."""
    import torch

    from answering.assistant import Assistant
    from evaluation.corrupting import show_corruptions
    from evaluation.report import show
    from training import distributed

    args, questions = evaluation.args, evaluation.questions
    answerer, identity = load_answerer(args, evaluation.config)
    evaluation.facts |= {**identity, "device": answerer.device}
    torch.manual_seed(evaluation.facts["seed"])  # used by sampled decoding only
    if unfinished:
        evaluation.restore(unfinished)
    complete = evaluation.ask(answerer)
    if distributed.rank():
        return 0  # the first process scores and writes
    result = evaluation.write(complete)  # before anything else that can fail or be interrupted
    if complete and not args.no_probes and isinstance(answerer, Assistant):
        add_sight(result, answerer, questions, args.output)
    print(show(result))
    if "corruptions" in result:
        print(show_corruptions(result["corruptions"]))
    show_page(result, args.output)
    if not complete:
        answered = f"{result['answered']} of {len(questions)} questions answered"
        if result["answered"] == len(questions):
            answered += ", not all of them with other or worse pictures"
        print(f"interrupted: {answered}; to continue: {typed_command(add=['--resume'])}", file=sys.stderr)
    return 0 if complete else 130


class Evaluation:
    """The questions of one evaluation, their answers, and the result file that is written from both.

    Args:
        train: the questions that the baselines are fitted on; None: the asked ones.
        facts: what the result file says in addition to scores and answers.
        begin: when the command started, by ``time.monotonic``.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        config: Config,
        questions: list[Question],
        train: list[Question] | None,
        facts: dict[str, Any],
        begin: float,
    ) -> None:
        from evaluation.asking import Pictures

        self.args, self.config, self.questions, self.train, self.facts = args, config, questions, train, facts
        self.begin, self.pictures = begin, Pictures(config.data.max_pixels)

    def restore(self, unfinished: Result) -> None:
        """Take the answers of an earlier result file. Raises UserError if another model gave them."""
        from evaluation.resuming import check_same, restore

        output, facts = self.args.output, self.facts
        check_same(output, unfinished, {"checkpoint_sha256": facts["checkpoint_sha256"]})
        for name, count in unfinished.get("tokens", {}).items():
            facts["tokens"][name] += count
        self.begin -= unfinished["seconds"]
        print(f"{restore(self.questions, unfinished)} of {len(self.questions)} questions are answered in {output}")

    def ask(self, answerer: Answerer) -> bool:
        """Ask all that has no answer yet. Returns False if Ctrl-C ended it early.

        Raises:
            UserError: the GPU memory is full, the server failed, or no question could be asked.
        """
        import torch

        from evaluation.endpoint import ServerFailed
        from training import distributed

        try:
            complete = self._ask_all(answerer)
        except torch.OutOfMemoryError as error:
            self.write(complete=False)
            raise UserError("out of GPU memory; add --resume and ask fewer at once: generate.batch_size=1") from error
        except ServerFailed as error:
            self.write(complete=False)
            raise UserError(f"{error}; what was answered is in {self.args.output}, --resume asks the rest") from error
        if complete:  # after Ctrl-C the other processes may never come here
            distributed.leave_together()
            if all(question.prediction is None for question in self.questions):
                first = self.questions[0].problem
                raise UserError(f"none of the {len(self.questions)} questions could be asked; the first: {first}")
        return complete

    def _ask_all(self, answerer: Answerer) -> bool:
        from evaluation.asking import ask_all
        from evaluation.corrupting import ask_corrupted
        from evaluation.resuming import Saver
        from training import distributed

        save = Saver(lambda: self.write(complete=False), idle=bool(distributed.rank()))
        asked = self.questions, self.config, self.pictures
        if not ask_all(answerer, *asked, not self.args.no_probes, save):
            return False
        return not self.args.corrupt or ask_corrupted(answerer, *asked, save)

    def write(self, complete: bool) -> dict:
        """Score the answers and write the result file, in the first process. Returns its content."""
        from evaluation.baselines import fit_baselines
        from evaluation.corrupting import score_corruptions
        from evaluation.report import build_result, write_result
        from training import distributed

        self.facts["baselines_fitted_on"] = fit_baselines(self.questions, self.train)
        result = build_result(self.questions, self.pictures.unreadable, {"complete": complete, **self.facts})
        if complete and self.args.corrupt:
            result["corruptions"] = score_corruptions(self.questions)
        result["seconds"] = round(time.monotonic() - self.begin, 1)
        if not distributed.rank():
            write_result(self.args.output, result)
        return result


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
