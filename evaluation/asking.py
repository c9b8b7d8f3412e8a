"""Asking all questions: in batches, each process its share, again with another picture and with none.

A picture is read once for all its questions. A question that cannot be asked (an unreadable picture, a prompt that is
too long) keeps the reason, and the others are asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from common.errors import UserError
from dataset.image import ImageError, load_image
from dataset.prompt import Request, Turn
from evaluation.answerer import Answerer
from evaluation.baselines import choose_other_images, needs_picture
from evaluation.questions import Question
from settings import Config, Generate
from training import distributed

ROUND = 8  # batches of a process between two times that the processes wait for each other
Item = TypeVar("Item")  # what is asked: a Question here, a line of a file in ask.py
MODEL = "model"  # whose answer it is: the model's own, or the name of a baseline


class Pictures:
    """Reads each picture once for all its questions, and keeps the latest within ``most_kept`` pixels in all."""

    def __init__(self, max_pixels: int, most_kept: int = 100_000_000) -> None:  # 300 MB
        self.max_pixels, self.most_kept, self.pixels_kept = max_pixels, most_kept, 0
        self.kept: OrderedDict[str, Image.Image] = OrderedDict()  # the least recently used first
        self.unreadable: dict[str, str] = {}  # path -> reason

    def __call__(self, path: str) -> Image.Image:
        """Raises ImageError, which names the file, if the picture cannot be read."""
        if path not in self.kept and path not in self.unreadable:
            try:
                self.kept[path] = load_image(path, self.max_pixels)
                self.pixels_kept += self.kept[path].width * self.kept[path].height
            except ImageError as error:
                self.unreadable[path] = str(error)
        if path in self.unreadable:
            raise ImageError(f"{path}: {self.unreadable[path]}")
        self.kept.move_to_end(path)
        while self.pixels_kept > self.most_kept and len(self.kept) > 1:
            _, oldest = self.kept.popitem(last=False)
            self.pixels_kept -= oldest.width * oldest.height
        return self.kept[path]


def requests_of(questions: Sequence[Question], max_pixels: int) -> list[Request]:
    """The questions with their pictures, as they are asked.

    Raises:
        ImageError: a picture cannot be read.
    """
    pictures = Pictures(max_pixels)
    return [Request([Turn(q.asked)], [pictures(path) for path in q.images], q.system) for q in questions]


def ask_all(
    answerer: Answerer,
    questions: Sequence[Question],
    config: Config,
    pictures: Pictures,
    probes: bool,
    save: Callable[[], None],
) -> bool:
    """Write all answers into the questions that lack them. Returns False if Ctrl-C ended it early.

    ``save`` is called now and then, when the answers of all processes are in the questions.
    """

    def showing(question: Question, text: str, images: list[str]) -> Request:
        return Request([Turn(text)], [pictures(path) for path in images], question.system)

    def ask(chosen: Sequence[Question], asker: str, label: str, request: Callable[[Question], Request]) -> None:
        ask_shared(answerer, chosen, label, request, partial(_record, asker), config, save)

    on_cpu = answerer.device == "cpu"
    try:
        ask([q for q in questions if q.prediction is None], MODEL, "asking", lambda q: showing(q, q.asked, q.images))
        if probes:
            pool = [q for q in questions if q.prediction is not None and q.images]
            probed = [q for q in pool if needs_picture(q)]
            _choose_others(probed, pool, config.data.seed)
            replaced = [q for q in probed if q.other_images and q.baselines.get("other_picture") is None]
            ask(replaced, "other_picture", "other picture", lambda q: showing(q, q.asked, q.other_images))
            alone = [q for q in probed if q.baselines.get("no_picture") is None]
            ask(alone, "no_picture", "no picture", lambda q: showing(q, q.text, []))
        pictures.unreadable = dict(sorted(distributed.gather(list(pictures.unreadable.items()), cpu=on_cpu)))
    except KeyboardInterrupt:
        return False
    return True


def _choose_others(questions: Sequence[Question], pool: Sequence[Question], seed: int) -> None:
    """Choose the other pictures, and drop an answer of an earlier evaluation that was about another one."""
    shown = [question.other_images for question in questions]
    choose_other_images(questions, pool, seed)
    for question, images in zip(questions, shown, strict=True):
        if question.other_images != images:
            question.baselines.pop("other_picture", None)


def ask_shared(
    answerer: Answerer,
    items: Sequence[Item],
    label: str,
    request: Callable[[Item], Request],
    record: Callable[[Item, str | None, str | None], object],
    config: Config,
    save: Callable[[], None],
) -> None:
    """Ask this process's share of the items, and ``record`` the answers of all processes: (item, answer, problem).

    In rounds of some batches for each process, after which all have the same answers, and ``save`` is called.
    """
    generate = config.generate
    size = ROUND * generate.batch_size * distributed.world_size()
    quiet = not config.data.progress or bool(distributed.rank())
    with tqdm(total=len(items), desc=label, unit="question", disable=quiet) as bar:
        for start in range(0, len(items), size):
            some = items[start : start + size]
            own = distributed.share(some, generate.batch_size)
            number = {id(some[i]): i for i in own}
            answers = []
            for item, answer, problem in answers_to(answerer, [some[i] for i in own], request, generate):
                record(item, answer, problem)  # at once: Ctrl-C keeps what was answered
                answers.append((number[id(item)], answer, problem))
                bar.update(distributed.world_size())
            for i, answer, problem in distributed.gather(answers, cpu=answerer.device == "cpu"):
                record(some[i], answer, problem)
            save()


def _record(asker: str, question: Question, answer: str | None, problem: str | None) -> None:
    if asker == MODEL:
        question.prediction = answer
    else:
        question.baselines[asker] = answer
    question.problem = problem or question.problem


def answers_to(
    answerer: Answerer,
    questions: Sequence[Item],
    request: Callable[[Item], Request],
    generate: Generate,
) -> Iterator[tuple[Item, str | None, str | None]]:
    """Ask in batches. For each question: its answer, or None and why it could not be asked.

    ``request`` may raise ImageError or UserError.
    """
    options = generate.model_dump(exclude={"batch_size"})
    batch: list[tuple[Item, Request]] = []
    for number, question in enumerate(questions, start=1):
        try:
            batch.append((question, request(question)))
        except (ImageError, UserError) as error:
            yield question, None, str(error)
        if batch and (len(batch) == generate.batch_size or number == len(questions)):
            yield from _answer_batch(answerer, batch, options)
            batch = []


def _answer_batch(
    answerer: Answerer, batch: list[tuple[Item, Request]], options: dict
) -> Iterator[tuple[Item, str | None, str | None]]:
    """As :func:`answers_to`. A batch that is refused is asked one by one: only the question at fault is lost."""
    try:
        answers = answerer.answer([request for _, request in batch], **options)
    except UserError as error:
        if len(batch) == 1:
            yield batch[0][0], None, str(error)
        else:
            for item in batch:
                yield from _answer_batch(answerer, [item], options)
        return
    for (question, _), answer in zip(batch, answers, strict=True):
        yield question, answer, None
