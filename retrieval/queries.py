"""What two towers were asked and what they answered, as the questions of result.json: evaluate.py's table, page and
comparison show them. Their types:

    text to picture   a caption; the answer is the name of the nearest picture
    picture to text   a picture; the answer is the nearest caption
    label             a picture; the answer is the nearest label
    caption           the data's own request to describe, with the id that evaluate.py gives it; the answer is the
                      nearest caption of another picture, to be compared with what a model writes

The mean score of the first two is Recall@1, that of labels zero-shot accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from dataset.prompt import question_with_images
from evaluation.baselines import choose_other_images, fit_baselines
from evaluation.questions import Question
from retrieval.encoder import Encoder
from retrieval.index import pictures_under
from retrieval.recall import Similarities, nearest
from retrieval.zero_shot import is_chinese

TO_PICTURE, TO_TEXT, LABEL, METRIC = "text to picture", "picture to text", "label", "top_1"
ASKED = {
    TO_TEXT: {"en": "Which caption belongs to this picture?", "zh": "哪一句描述属于这张图片？"},
    LABEL: {"en": "Which label belongs to this picture?", "zh": "哪个标签属于这张图片？"},
}


# ---------------------------------------------------------------------------------------------- captions


def caption_queries(found: Similarities, questions: Sequence[Question], problems: Mapping[Path, str]) -> list[Question]:
    """Both directions, and ``questions``, those of captions.caption_questions, with their answers.

    Questions about pictures that cannot be read keep the reason, which is in ``problems``.
    """
    rows = {picture.path: row for row, picture in enumerate(found.pictures)}
    for question in questions:
        question.problem = problems.get(Path(question.images[0]))
    usable = [question for question in questions if question.problem is None]
    _answer_with_others(found, usable, rows)
    return [*_to_pictures(found, usable), *_to_texts(found, usable, rows), *questions]


def _to_pictures(found: Similarities, questions: Sequence[Question]) -> list[Question]:
    names = picture_names([picture.path for picture in found.pictures])
    columns = {text: column for column, text in enumerate(found.texts)}
    best = nearest(found.cosines.T, found.right.T)  # [m]
    chances = found.right.mean(0)  # [m]
    queries: dict[tuple[str, str], Question] = {}
    for question in questions:
        for number, text in enumerate(question.references):
            if (question.images[0], text) in queries:
                continue
            column = columns[text]
            queries[question.images[0], text] = replace(
                query_like(question, TO_PICTURE, text, text),
                references=[names[row] for row in np.flatnonzero(found.right[:, column])],
                id=f"{question.id}/{number}/{TO_PICTURE}",
                prediction=names[best[column]],
                named=[found.pictures[best[column]].path],
                chance=float(chances[column]),
            )
    return list(queries.values())


def _to_texts(found: Similarities, questions: Sequence[Question], rows: dict[str, int]) -> list[Question]:
    best = nearest(found.cosines, found.right)  # [n]
    chances = found.right.mean(1)  # [n]
    queries: dict[str, Question] = {}
    for question in questions:
        path = question.images[0]
        if path not in queries:
            queries[path] = replace(
                picture_query(question, TO_TEXT),
                references=found.pictures[rows[path]].captions,
                id=f"{question.id}/{TO_TEXT}",
                prediction=found.texts[best[rows[path]]],
                chance=float(chances[rows[path]]),
            )
    return list(queries.values())


def _answer_with_others(found: Similarities, questions: Sequence[Question], rows: dict[str, int]) -> None:
    """Answer each request to describe with the nearest caption in its language that none of its own picture is."""
    spoken = {text: question.language for question in reversed(questions) for text in question.references}
    languages = np.array([spoken[text] for text in found.texts])  # [m]
    alike = {language: languages == language for language in set(spoken.values())}  # [m] each
    for question in questions:
        row = rows[question.images[0]]
        others = ~found.right[row] & alike[question.language]
        if others.any():
            question.prediction = found.texts[int(np.where(others, found.cosines[row], -np.inf).argmax())]


def picture_names(paths: Sequence[str]) -> list[str]:
    """The names of files; the whole path where several have the same name."""
    count = Counter(Path(path).name for path in paths)
    return [Path(path).name if count[Path(path).name] == 1 else path for path in paths]


# ---------------------------------------------------------------------------------------------- labels


def label_queries(
    encoder: Encoder, classes: Sequence[Path], wanted: np.ndarray, problems: dict[Path, str]
) -> list[Question]:
    """A query for each picture in ``classes``, folders named after their label; ``wanted`` [labels, D]: their vectors.

    Pictures that cannot be read go into ``problems``, and their queries keep the reason.

    Raises:
        UserError: none can be read.
    """
    labels = [folder.name for folder in classes]
    language = "zh" if any(map(is_chinese, labels)) else "en"
    queries, said = [], dict[Path, str]()
    for folder in classes:
        files = pictures_under(folder)
        for some, vectors in encoder.images(files, problems, folder.name):
            said |= {file: labels[best] for file, best in zip(some, (vectors @ wanted.T).argmax(1), strict=True)}
        for file in files:
            own = Question("", "", [folder.name], [file.as_posix()], file.as_posix(), "", language, LABEL)
            own.id, own.source = f"{folder.name}/{file.relative_to(folder.resolve()).as_posix()}", folder.parent.name
            own.prediction, own.problem, own.chance = said.get(file), problems.get(file), 1 / len(labels)
            queries.append(picture_query(own, LABEL))
    if not said:
        raise UserError(f"no picture in {', '.join(map(str, classes))} can be read")
    return queries


# ---------------------------------------------------------------------------------------------- shared


def picture_query(question: Question, kind: str) -> Question:
    """About the picture of ``question``, with the words of a type of query."""
    text = ASKED[kind][question.language]
    return query_like(question, kind, question_with_images(text, 1), text)


def query_like(question: Question, kind: str, asked: str, text: str) -> Question:
    """With the picture, source and language of ``question``, and no baseline's answer yet."""
    return replace(question, asked=asked, text=text, type=kind, metric=METRIC, baselines={})


def add_floors(queries: Sequence[Question], blind: str, seed: int) -> str:
    """The four baselines of the queries that show a picture. ``blind``: the answer to a grey picture.

    Returns what the fitted ones were fitted on.
    """
    shown = [query for query in queries if query.type in ASKED and query.prediction is not None]
    said = {query.images[0]: query.prediction for query in shown}
    choose_other_images(shown, shown, seed)
    for query in shown:
        query.baselines["no_picture"] = blind
        if query.other_images:
            query.baselines["other_picture"] = said[query.other_images[0]]
    return fit_baselines(shown, None)
