"""Connectors, kinds of adapters and stage recipes, trained alike on the demo: what each costs, and what it answers.

    python -m benchmarks.architectures                # 39 runs of a minute or two; writes result-architectures.json
    python -m benchmarks.architectures --jobs 2       # two runs at a time

Each run is a process of its own, and the file has a row for each, so an interrupted measurement continues where it
ended. Every variant has the same number of steps of 4 pictures, and a recipe divides them among its stages. Seeds come
first: after the first third of the runs every variant has one. Rates are the demo's and were not tuned for a variant
(benchmarks/stages.py). On a CPU a run has one thread, and speeds are per second that its process computed: another
process on the machine changes them little. Draw the demo's data and run process_image.py first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # its stubs are not installed
import torch

from answering.assistant import Assistant
from benchmarks.common import clock, machine
from benchmarks.stages import FULL_RATE, RECIPES, SIZES, load, run_recipe, train, write_data
from benchmarks.tables import architecture_table
from dataset.prompt import Request, Turn
from evaluation.asking import Pictures, ask_all
from evaluation.baselines import fit_baselines
from evaluation.questions import Question, read_questions, sample
from evaluation.report import score_groups
from model.model import quiet_libraries
from settings import Config, load_config
from training.loop import Loop


@dataclass(frozen=True)
class Variant:
    """One line of the table: keys of the demo's config, or a recipe of benchmarks/stages.py."""

    group: str
    keys: dict[str, Any] | None = None
    recipe: str | None = None


def _connector(kind: str) -> Variant:
    return Variant("connector", {"projector.kind": kind, **SIZES[kind]})


VARIANTS: dict[str, Variant] = {
    **{kind: _connector(kind) for kind in SIZES},  # with LoRA, so that mlp is the demo's own run
    "mlp, frozen": Variant("adapter", {"language.train": "frozen"}),
    "mlp, full": Variant("adapter", {"language.train": "full", "language.learning_rate": FULL_RATE}),
    "mlp, prefix": Variant("adapter", {"language.train": "prefix", "language.learning_rate": 1e-2}),
    "mlp, adapter": Variant("adapter", {"language.train": "adapter"}),
    **{f"{recipe} stages": Variant("stages", recipe=recipe) for recipe in RECIPES},
}
RESULT = Path("result-architectures.json")
SPEEDS = ("tokens_per_second", "text_tokens_per_second")
FIRST_TOKENS = 15  # pictures that the time to the first token is measured on


def main() -> None:
    args = parse_arguments()
    quiet_libraries()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    if args.one:
        print(json.dumps(measure(args.one, args.seed, args)))
        return
    rows = read_rows(args)
    wanted = [(name, seed) for seed in range(args.seeds) for name in args.variants]
    missing = [one for one in wanted if one not in {(row["variant"], row["seed"]) for row in rows}]
    with ThreadPoolExecutor(args.jobs) as pool:
        for done in as_completed(pool.submit(run_alone, name, seed, args) for name, seed in missing):
            rows.append(done.result())
            rows.sort(key=lambda row: wanted.index((row["variant"], row["seed"])))
            facts = {**machine(), "steps": args.steps, "questions": args.questions}
            args.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
            print(json.dumps({key: done.result()[key] for key in ("variant", "seed", "score", "seconds")}), flush=True)
    print(architecture_table(json.loads(args.output.read_text(encoding="utf-8"))))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULT, metavar="FILE", help="made, or continued (%(default)s)")
    parser.add_argument("--config", default="demo.yaml", help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=300, metavar="N", help="of the test split, asked of each run")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)  # the process of a run
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def read_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of an earlier measurement of the same number of steps and questions."""
    if not args.output.is_file():
        return []
    content = json.loads(args.output.read_text(encoding="utf-8"))
    if (content["steps"], content["questions"]) != (args.steps, args.questions):
        found = f"--steps {content['steps']} --questions {content['questions']}"
        raise SystemExit(f"--output = {args.output}: it was measured with {found}; name another file")
    return content["rows"]


def run_alone(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """:func:`measure` in a process of its own, whose peak memory is this run's."""
    given = ["--one", name, "--seed", str(seed), "--steps", str(args.steps), "--questions", str(args.questions)]
    command = [sys.executable, "-m", "benchmarks.architectures", "--output", str(args.output), "--config", args.config]
    done = subprocess.run([*command, *given], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train a variant, ask it, and time it; a row of the results."""
    variant, process = VARIANTS[name], psutil.Process()
    before = 0 if torch.cuda.is_available() else process.memory_info().rss
    begin = clock()
    with tempfile.TemporaryDirectory() as folder:
        loops = train_variant(variant, seed, args, Path(folder))
        seconds, peak = clock() - begin, peak_memory(process)
        assistant = Assistant.load(loops[-1].run)
        questions = ask(assistant, load_config(args.config), args.questions)
        overall = score_groups(questions)["overall"]
        history = [entry for loop in loops for entry in loop.progress.log_history[1:] if "tokens_per_second" in entry]
        return {
            "variant": name,
            "group": variant.group,
            "seed": seed,
            "visual_tokens": assistant.model.num_visual_tokens if assistant.model.projector.in_sequence else 0,
            "trained": [sum(count for count, _ in loop.model.trainable_counts().values()) for loop in loops],
            "score": overall["score"],
            "floors": {floor: mean["mean"] for floor, mean in overall["baselines"].items()},
            **{speed: statistics.median(entry[speed] for entry in history) for speed in SPEEDS},
            "memory_mib": (peak - before) / 2**20,
            "first_token_ms": first_token_ms(assistant, questions),
            "loss": [loop.progress.log_history[-1]["loss"] for loop in loops],
            "seconds": round(seconds, 1),
        }


def train_variant(variant: Variant, seed: int, args: argparse.Namespace, folder: Path) -> list[Loop]:
    """The loops of a variant's runs, which have ended."""
    if variant.recipe:
        stages, data = RECIPES[variant.recipe], write_data(load_config(args.config), folder)
        steps = args.steps // len(stages)
        return [loop for loop, _ in run_recipe(args.config, stages, steps, seed, folder, data)]
    keys = {**(variant.keys or {}), "train.max_steps": args.steps, "train.seed": seed, "train.data_seed": seed}
    return [train(load(args.config, keys), folder / "run")]


def ask(assistant: Assistant, config: Config, count: int) -> list[Question]:
    """Questions of the test split with a short answer, asked also with another picture and with none."""
    asked, known, _ = read_questions(config, "test", None)
    questions = sample([question for question in asked if question.type != "caption"], count, config.data.seed)
    config.generate.max_new_tokens, config.data.progress = 16, False
    ask_all(assistant, questions, config, Pictures(config.data.max_pixels), probes=True, save=lambda: None)
    fit_baselines(questions, known)
    return questions


def first_token_ms(assistant: Assistant, questions: list[Question]) -> float:
    """The median time from a question about a new picture to the first piece of its answer."""
    taken, pictures = [], Pictures(assistant.config.data.max_pixels)
    of_each_picture = {question.images[0]: question for question in questions}
    with torch.inference_mode():
        for question in list(of_each_picture.values())[:FIRST_TOKENS]:
            request = Request([Turn(question.asked)], [pictures(question.images[0])], question.system)
            begin = clock()
            next(iter(assistant.stream(request)), None)
            taken.append(clock() - begin)
    return 1000 * statistics.median(taken)


def peak_memory(process: psutil.Process) -> int:
    """Bytes, the most that this process had so far; of a GPU, if it computes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return process.memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
