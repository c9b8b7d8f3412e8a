"""Score a checkpoint, and find out whether it looks at the picture at all.

    python evaluate.py --checkpoint checkpoints/demo --output result.json
    python evaluate.py --checkpoint checkpoints/demo --split train --limit 500 generate.batch_size=32
    torchrun --nproc-per-node 8 evaluate.py --checkpoint checkpoints/demo          # the questions shared by eight GPUs

Every turn is asked on its own, without history: earlier reference answers in the prompt would give answers away. It
gets the pictures its conversation has shown so far. Captions are scored by BLEU, ROUGE-L and CIDEr; all other
answers by exact match after normalisation, and by VQA accuracy where ten people answered.

An accuracy says little alone. Beside it stand what can be had without looking (the majority answer, the commonest
answer to each question text) and what the model itself says when another picture, or none, is shown. Where the
accuracy is not clearly above those, the report says so in words.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import platform
import random
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from answering.assistant import Assistant
from common.errors import UserError
from common.files import write_json
from dataset.conversations import read_conversations
from dataset.image import ImageError, load_image
from dataset.prompt import IMAGE_TOKEN, Request, Turn, images_first, question_with_images
from evaluation import scores as metrics
from model.model import quiet_libraries
from settings import Config, Generate, load_config, require_paths
from training import distributed as ranks

HISTORY = "none: each turn is asked on its own, with the pictures its conversation has shown so far"
# What the model's accuracy is held against: attribute of Question, heading, and how the verdict names it.
FLOORS = {
    "majority": ("majority", "the majority answer"),
    "question_only": ("question only", "the best answer per question text"),
}
PROBES = {
    "swapped": ("other picture", "itself with another picture"),
    "blind": ("no picture", "itself with no picture"),
}
FEW_IMAGES = 10


@dataclass
class Question:
    """One turn, what was answered in each setting (None: not asked), and why it could not be asked, if so."""

    asked: str  # with a placeholder per picture
    text: str  # without
    references: list[str]
    images: list[str]  # paths
    group: str  # what hangs together statistically: the picture, or a conversation without one
    source: str
    language: str
    kind: str
    prediction: str | None = None
    majority: str | None = None
    question_only: str | None = None
    swapped: str | None = None
    swapped_images: list[str] = field(default_factory=list)
    blind: str | None = None
    problem: str | None = None

    def right(self, setting: str = "prediction") -> bool | None:
        """Exact match of the answer in a setting; None where there is none, and for captions."""
        answer = getattr(self, setting)
        if answer is None or self.kind == "caption":
            return None
        return metrics.exact_match(answer, self.references, self.language)

    def pair(self) -> metrics.Pair:
        return metrics.Pair(self.text, tuple(self.references), self.language, self.kind, self.group)


# ---------------------------------------------------------------------------------------------- which questions


def read_questions(
    config: Config, split: str | None, files: tuple[Path, Path] | None
) -> tuple[list[Question], list[metrics.Pair] | None, str]:
    """The questions to ask, the training pairs for the floors (None: none at hand), and the files they came from.

    Without ``files`` (image map, annotations) the run's own are read, and ``split`` defaults to the held-out one; of
    given files everything is asked unless there is a ``split``.
    """
    if files is None:
        require_paths(config, "data.image_map", "data.annotations")
    image_map, annotations = files or (config.data.image_map, config.data.annotations)
    splits = [split] if split else ["train", "held_out"] if files else ["held_out"]
    try:
        read = {name: read_conversations(image_map, annotations, name) for name in ("train", "held_out")}
        first = config.data.images_first
        asked = [question for name in splits for question in conversation_questions(*read[name], first)]
        train = conversation_questions(*read["train"], first) if splits == ["held_out"] else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{image_map} and {annotations} cannot be read as what process_image.py writes ({reason})"
        ) from error
    if not asked:
        raise UserError(f"{annotations} holds no question of the split {' or '.join(splits)}; choose another --split")
    pairs = [question.pair() for question in train if question.images and question.kind != "caption"]
    return asked, pairs or None, f"{Path(annotations).as_posix()} ({' and '.join(splits)})"


def conversation_questions(
    paths: dict[int, str], conversations: list[tuple[str, dict]], first: bool = False
) -> list[Question]:
    """One question per turn; the pictures of earlier turns are put in front of it, with ``first`` its own too."""
    questions = []
    for name, conversation in conversations:
        images = [paths[image] for image in conversation["images"]]
        shown = 0
        for turn in conversation["turns"]:
            asked = question_with_images("", shown) + turn["q"]
            if first:
                asked = images_first([Turn(asked)])[0].question
            shown += turn["q"].count(IMAGE_TOKEN)
            text = " ".join(turn["q"].replace(IMAGE_TOKEN, " ").split())
            questions.append(
                Question(
                    asked=asked,
                    text=text,
                    references=list(turn["a"]),
                    images=images[:shown],
                    group=images[0] if shown and images else name,
                    source=conversation["source"],
                    language=conversation["language"],
                    kind=metrics.question_type(text, turn["a"]),
                )
            )
    return questions


def sample(questions: list[Question], limit: int | None, seed: int) -> list[Question]:
    """At most ``limit`` questions, drawn from all over the data and kept in its order."""
    if limit is None or limit >= len(questions):
        return questions
    return [questions[i] for i in sorted(random.Random(seed).sample(range(len(questions)), limit))]


# ---------------------------------------------------------------------------------------------- asking


class Pictures:
    """Reads each picture once for all its questions, keeping the latest within a bound of pixels in all."""

    def __init__(self, max_pixels: int, room: int = 100_000_000) -> None:  # 300 MB
        self.max_pixels, self.room, self.used = max_pixels, room, 0
        self.kept: OrderedDict[str, Image.Image] = OrderedDict()
        self.unreadable: dict[str, str] = {}  # path -> reason

    def __call__(self, path: str) -> Image.Image:
        """Raises ImageError, which names the file, for a picture that cannot be read."""
        if path not in self.kept and path not in self.unreadable:
            try:
                self.kept[path] = load_image(path, self.max_pixels)
                self.used += self.kept[path].width * self.kept[path].height
            except ImageError as error:
                self.unreadable[path] = str(error)
        if path in self.unreadable:
            raise ImageError(f"{path}: {self.unreadable[path]}")
        self.kept.move_to_end(path)
        while self.used > self.room and len(self.kept) > 1:
            _, oldest = self.kept.popitem(last=False)
            self.used -= oldest.width * oldest.height
        return self.kept[path]


def ask(
    assistant: Assistant,
    questions: Sequence[Question],
    request: Callable[[Question], Request],
    generate: Generate,
    label: str,
    progress: bool,
) -> Iterator[tuple[Question, str | None, str | None]]:
    """Ask in batches; for each question its answer, or None and why it could not be asked."""
    options = generate.model_dump(exclude={"batch_size"})
    batch: list[tuple[Question, Request]] = []
    with tqdm(total=len(questions), desc=label, unit="question", disable=not progress) as bar:
        for number, question in enumerate(questions, start=1):
            try:
                batch.append((question, request(question)))
            except ImageError as error:
                yield question, None, str(error)
                bar.update()
            if batch and (len(batch) == generate.batch_size or number == len(questions)):
                yield from answer_batch(assistant, batch, options)
                bar.update(len(batch))
                batch = []


def answer_batch(assistant: Assistant, batch: list[tuple[Question, Request]], options: dict):
    """As :func:`ask`. Where a batch is refused, one by one: a question that is too long must not take others along."""
    try:
        answers = assistant.answer([request for _, request in batch], **options)
    except UserError as error:
        if len(batch) == 1:
            yield batch[0][0], None, str(error)
        else:
            for item in batch:
                yield from answer_batch(assistant, [item], options)
        return
    for (question, _), answer in zip(batch, answers, strict=True):
        yield question, answer, None


def swap_images(questions: Sequence[Question], pool: Sequence[Question], seed: int) -> None:
    """Choose what to show instead of each question's pictures: as many of the pool's, none of them its own.

    The pool's pictures are shuffled into a ring and each is replaced by the next, so that none is shown more often
    than the one whose place it takes. Where there are not enough others, ``swapped_images`` stays empty.
    """
    ring = sorted({image for question in pool for image in question.images})
    random.Random(seed).shuffle(ring)
    place = {image: i for i, image in enumerate(ring)}
    for question in questions:
        start = place[question.images[0]]
        following = (ring[(start + step) % len(ring)] for step in range(1, len(ring)))
        others = list(islice((image for image in following if image not in question.images), len(question.images)))
        question.swapped_images = others if len(others) == len(question.images) else []


def ask_everything(
    assistant: Assistant, questions: list[Question], generate: Generate, pictures: Pictures, probes: bool
) -> bool:
    """Fill in all predictions; False where Ctrl-C ended it early."""
    data = assistant.config.data

    def run(chosen: Sequence[Question], setting: str, label: str, request: Callable[[Question], Request]) -> None:
        own = ranks.share(chosen, generate.batch_size)
        places = {id(chosen[place]): place for place in own}
        asked = ask(assistant, [chosen[p] for p in own], request, generate, label, data.progress and not ranks.rank())
        answers = []
        for question, answer, problem in asked:
            keep(question, setting, answer, problem)  # at once: Ctrl-C keeps what was answered
            answers.append((places[id(question)], answer, problem))
        for place, answer, problem in ranks.gather(answers, cpu=assistant.device == "cpu"):
            keep(chosen[place], setting, answer, problem)

    def keep(question: Question, setting: str, answer: str, problem: str) -> None:
        setattr(question, setting, answer)
        question.problem = problem or question.problem

    def showing(text: str, images: list[str]) -> Request:
        return Request([Turn(text)], [pictures(path) for path in images])

    try:
        run(questions, "prediction", "asking", lambda q: showing(q.asked, q.images))
        if probes:
            answered = [q for q in questions if q.prediction is not None and q.images]
            probed = [q for q in answered if q.kind != "caption"]
            swap_images(probed, answered, data.seed)
            swapped = [q for q in probed if q.swapped_images]
            run(swapped, "swapped", "other picture", lambda q: showing(q.asked, q.swapped_images))
            run(probed, "blind", "no picture", lambda q: showing(q.text, []))
        unreadable = ranks.gather(list(pictures.unreadable.items()), cpu=assistant.device == "cpu")
        pictures.unreadable = dict(sorted(unreadable))
    except KeyboardInterrupt:
        return False
    return True


def fill_floors(questions: Sequence[Question], train: Sequence[metrics.Pair] | None) -> str:
    """Put the floors' answers beside the model's; returns in words what they were fitted on."""
    chosen = [q for q in questions if q.prediction is not None and q.images and q.kind != "caption"]
    pairs = [question.pair() for question in chosen]
    majority, question_only = metrics.majority_answer(pairs, train), metrics.question_only(pairs, train)
    for question, often, best in zip(chosen, majority, question_only, strict=True):
        question.majority, question.question_only = often, best
    if train is None:
        return "the evaluated questions themselves, each time without those on the same picture"
    return f"the {len(train)} questions of the training split"


# ---------------------------------------------------------------------------------------------- scores


def score(questions: Sequence[Question]) -> dict:
    """The numbers of one group of questions, over those that were answered; None where a number has no questions."""
    answered = [q for q in questions if q.prediction is not None]
    short = [q for q in answered if q.kind != "caption"]
    accuracy, error = mean_right(short, "prediction")
    ten = [metrics.vqa_accuracy(q.prediction, q.references) for q in short if len(q.references) == 10]
    captions = {}
    for language in sorted({q.language for q in answered if q.kind == "caption"}):
        chosen = [q for q in answered if q.kind == "caption" and q.language == language]
        captions[language] = metrics.caption_scores(
            [q.prediction for q in chosen], [q.references for q in chosen], language
        )
    return {
        "n": len(short),
        "exact_match": accuracy,
        "standard_error": error,
        "vqa_n": len(ten),
        "vqa_accuracy": sum(ten) / len(ten) if ten else None,
        **{setting: mean_right(short, setting)[0] for setting in (*FLOORS, *PROBES)},
        "captions": captions,
    }


def mean_right(questions: Sequence[Question], setting: str) -> tuple[float | None, float | None]:
    """Exact match over the questions answered in this setting, and its standard error clustered by picture."""
    chosen = [q for q in questions if getattr(q, setting) is not None]
    if not chosen:
        return None, None
    mean, error = metrics.clustered_mean([float(q.right(setting)) for q in chosen], [q.group for q in chosen])
    return mean, finite(error)


def finite(number: float) -> float | None:
    """JSON has no infinity: an error that cannot be known is null."""
    return number if math.isfinite(number) else None


def score_groups(questions: Sequence[Question]) -> dict:
    """Scores overall, and by question type, language and source."""
    groups: dict = {"overall": score(questions)}
    for name, attribute in (("by_type", "kind"), ("by_language", "language"), ("by_source", "source")):
        values = {getattr(q, attribute) for q in questions}
        ordered = [kind for kind in metrics.KINDS if kind in values] if attribute == "kind" else sorted(values)
        groups[name] = {value: score([q for q in questions if getattr(q, attribute) == value]) for value in ordered}
    return groups


def judge(questions: Sequence[Question]) -> dict:
    """Whether the model looks at the picture (None: cannot be told), why in one sentence, and the comparisons."""
    against: dict[str, dict] = {}
    for setting in (*FLOORS, *PROBES):
        chosen = [q for q in questions if q.right() is not None and q.images and getattr(q, setting) is not None]
        if not chosen:
            continue
        own, other = ([float(q.right(name)) for q in chosen] for name in ("prediction", setting))
        difference, error, clear = metrics.clearly_above(own, other, [q.group for q in chosen])
        against[setting] = {
            "n": len(chosen),
            "images": len({q.group for q in chosen}),
            "model": sum(own) / len(own),
            "other": sum(other) / len(other),
            "difference": difference,
            "standard_error": finite(error),
            "clearly_above": clear,
        }
    looks, words = verdict(against)
    return {"looks_at_the_picture": looks, "verdict": words, "against": against}


def verdict(against: dict[str, dict]) -> tuple[bool | None, str]:
    """The comparisons of :func:`judge` as a sentence."""
    if not against:
        return (
            None,
            "Whether the model looks at the picture cannot be told: no short answer about a picture was scored.",
        )
    images = min(row["images"] for row in against.values())
    if images < 2:
        return None, "Whether the model looks at the picture cannot be told from a single picture."
    names = FLOORS | PROBES
    few = f" Only {images} pictures: little to go by." if images < FEW_IMAGES else ""
    beaten = [
        f"{names[setting][1]} ({row['model']:.2f} against {row['other']:.2f}, "
        f"difference {row['difference']:+.2f}, standard error {row['standard_error']:.2f})"
        for setting, row in against.items()
        if not row["clearly_above"]
    ]
    if beaten:
        return False, (
            f"This model is NOT clearly better than {' or '.join(beaten)}: "
            f"its answers may not come from the picture.{few}"
        )
    listed = ", ".join(f"{row['other']:.2f} ({names[setting][0]})" for setting, row in against.items())
    own = f"{next(iter(against.values()))['model']:.2f} against {listed}."
    if not PROBES.keys() <= against.keys():
        return (
            None,
            f"The model is clearly better than what can be had without looking: {own} It was not probed further.{few}",
        )
    return True, f"The model looks at the picture: {own}{few}"


# ---------------------------------------------------------------------------------------------- the report


def build_result(
    assistant: Assistant, questions: list[Question], generate: Generate, pictures: Pictures, facts: dict
) -> dict:
    """All that goes into the result file: how it was asked, the scores, the verdict and every prediction."""
    unasked = [q for q in questions if q.prediction is None and q.problem is not None]
    short = [q for q in questions if q.right() is not None]
    languages = {q.language for q in questions if q.kind == "caption"}
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    if languages:
        packages |= metrics.caption_packages(languages)
    return {
        **facts,
        "checkpoint": Path(assistant.checkpoint).as_posix(),
        "device": assistant.device,
        "system": assistant.config.language.system,
        "history": HISTORY,
        "generate": generate.model_dump(),
        "versions": {"python": platform.python_version(), **packages},
        "normalisation": metrics.NORMALISATION,
        "caption_words": metrics.CAPTION_TOKENS,
        "segmenter": f"jieba {packages['jieba']}" if "jieba" in packages else None,
        "questions": len(questions),
        "answered": sum(q.prediction is not None for q in questions),
        "unasked": len(unasked),  # left out of every score
        "first_problem": unasked[0].problem if unasked else None,
        "unreadable_images": pictures.unreadable,
        "long_references": sum(all(map(metrics.is_sentence, q.references)) for q in short),
        "scores": score_groups(questions),
        **judge(questions),
        "predictions": [prediction(q) for q in questions if q.prediction is not None or q.problem is not None],
    }


def prediction(question: Question) -> dict:
    """One line of the result file."""
    ten = len(question.references) == 10 and question.right() is not None
    line = {
        "question": question.text,
        "asked": question.asked,
        "references": question.references,
        "images": question.images,
        "source": question.source,
        "language": question.language,
        "type": question.kind,
        "prediction": question.prediction,
        "exact_match": question.right(),
        "vqa_accuracy": metrics.vqa_accuracy(question.prediction, question.references) if ten else None,
    }
    for setting in (*FLOORS, *PROBES):
        line[setting] = {"answer": getattr(question, setting), "exact_match": question.right(setting)}
    line["swapped"]["images"] = question.swapped_images
    return line | ({"problem": question.problem} if question.problem else {})


def show(result: dict) -> str:
    """The result as tables and sentences for a terminal."""
    settings = {"n": "n", "exact_match": "exact", "standard_error": "+-", "vqa_accuracy": "VQA"}
    settings |= {setting: heading for setting, (heading, _) in (FLOORS | PROBES).items()}
    scores = result["scores"]
    rows = {"all": scores["overall"]}
    for group in ("by_type", "by_language", "by_source"):
        rows |= {f"{group.removeprefix('by_')} {name}": row for name, row in scores[group].items()}
    lines = table({name: row for name, row in rows.items() if row["n"]}, settings)
    captions = {f"{name} ({lang})": row["captions"][lang] for name, row in rows.items() for lang in row["captions"]}
    captions = {name: row for name, row in captions.items() if not name.startswith(("type", "language"))}
    if captions:
        lines += ["", *table(captions, {key: key for key in next(iter(captions.values()))})]
    lines += ["", result["verdict"], f"Majority and question only are fitted on {result['floors']}."]
    if result["long_references"]:
        lines.append(
            f"{result['long_references']} of {scores['overall']['n']} questions have whole sentences as references, "
            "which exact match hardly ever rewards."
        )
    if result["unasked"]:
        lines.append(
            f"{result['unasked']} questions could not be asked and are left out "
            f"({len(result['unreadable_images'])} pictures cannot be read). The first: {result['first_problem']}"
        )
    return "\n".join(lines)


def table(rows: dict[str, dict], columns: dict[str, str]) -> list[str]:
    """Aligned lines; columns without a single number are left out."""
    columns = {key: heading for key, heading in columns.items() if any(row[key] is not None for row in rows.values())}
    cells = [["", *columns.values()]]
    for name, row in rows.items():
        numbers = (row[key] for key in columns)
        cells.append([name, *("-" if x is None else f"{x:.3f}" if isinstance(x, float) else str(x) for x in numbers)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in cells]
    return ["  ".join(line).rstrip() for line in aligned] if rows else []


# ---------------------------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    quiet_libraries()
    ranks.only_first_speaks()
    try:
        return evaluate(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print("error: out of GPU memory; ask fewer questions at once: generate.batch_size=1", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first answer; nothing written", file=sys.stderr)
        return 130


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a checkpoint and test whether it looks at the picture.")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run's folder")
    parser.add_argument("--split", choices=("held_out", "train"), help="default: held_out; of given files, everything")
    parser.add_argument("--image-map", type=Path, metavar="FILE", help="other data than the run's, with --annotations")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="other data than the run's, with --image-map")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only N questions, drawn from all over the data")
    parser.add_argument("--no-probes", action="store_true", help="do not ask again with another picture and with none")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    parser.add_argument("--output", type=Path, default=Path("result.json"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="generate.KEY=VALUE", help="change how answers are decoded")
    args = parser.parse_intermixed_args(argv)
    if (args.image_map is None) != (args.annotations is None):
        parser.error("--image-map and --annotations go together")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def evaluate(args: argparse.Namespace) -> int:
    """Ask, score, write and print; the exit status."""
    begin = time.monotonic()
    device = args.device
    if device is None and ranks.world_size() > 1 and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    assistant = Assistant.load(args.checkpoint, device)
    config, generate = assistant.config, decoding(assistant, args.overrides)
    files = (args.image_map, args.annotations) if args.image_map else None
    asked, train, data = read_questions(config, args.split, files)
    questions = sample(asked, args.limit, config.data.seed)
    prepare(questions, args.output)
    torch.manual_seed(config.data.seed)  # only sampled decoding draws from it
    pictures = Pictures(config.data.max_pixels)
    complete = ask_everything(assistant, questions, generate, pictures, probes=not args.no_probes)
    if complete:  # else some may have been stopped on their way here
        ranks.leave_together()
    if complete and all(q.prediction is None for q in questions):
        raise UserError(f"none of the {len(questions)} questions could be asked; the first: {questions[0].problem}")
    if ranks.rank():
        return 0  # the first process scores and writes
    facts = {"complete": complete, "data": data, "limit": args.limit, "seed": config.data.seed}
    facts["floors"] = fill_floors(questions, train)
    result = build_result(assistant, questions, generate, pictures, facts)
    result["seconds"] = round(time.monotonic() - begin, 1)
    try:
        write_json(args.output, result)  # before anything is printed: a terminal that fails must not cost the result
    except OSError as error:
        raise UserError(f"{args.output}: cannot be written: {error.strerror or error}") from error
    print(show(result))
    print(f"Every prediction is in {args.output}.")
    if not complete:
        print(f"interrupted: {result['answered']} of {len(questions)} questions answered", file=sys.stderr)
    return 0 if complete else 130


def decoding(assistant: Assistant, overrides: Sequence[str]) -> Generate:
    """The run's ``generate`` section with the command line's changes."""
    for text in overrides:
        if not text.startswith("generate."):
            raise UserError(
                f"command line: {text}: only generate.KEY=VALUE can be changed here, such as generate.batch_size=32"
            )
    if not overrides:
        return assistant.config.generate
    return load_config(Path(assistant.checkpoint) / "config.yaml", overrides, check_models=False).generate


def prepare(questions: Sequence[Question], output: Path) -> None:
    """Find out now, not after an hour of asking, what scoring and writing will need."""
    languages = {q.language for q in questions if q.kind == "caption"}
    try:
        if languages:
            metrics.caption_packages(languages)
    except ModuleNotFoundError as error:
        raise UserError(f"scoring captions takes the package {error.name}; pip install -r requirements.txt") from error
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
