"""How answers are scored: exact match, VQA accuracy, captions, and the floors an answer must rise above.

Pure functions of text, without torch. Every rule that moves a score is written here once, has a name
(:data:`NORMALISATION`, :func:`caption_packages`) and is recorded beside the scores: another normalisation or another
Chinese segmenter gives other numbers for the same answers.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

NORMALISATION = {
    "en": "VQA v2: lower case, punctuation, articles, number words up to ten, apostrophes of contractions",
    "zh": "NFKC, lower case, punctuation and white space dropped",
}
CAPTION_TOKENS = {
    "en": "lower case; runs of letters and digits, apostrophes, hyphens and decimal points kept inside them",
    "zh": "NFKC, lower case, punctuation dropped, jieba's default mode",
}
KINDS = ("color", "shape", "size", "place", "count", "yes/no", "caption", "other")


# ---------------------------------------------------------------------------------------------- short answers

# What the official VQA v2 evaluator replaces: the same words with exactly one apostrophe left out.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_REPAIRED = {word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS for i, mark in enumerate(word) if mark == "'"}
_REPAIRED["somebody'd"] = "somebodyd"  # the official table has this one the wrong way round
_DIGITS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_DIGITS["none"] = "0"
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def _vqa_text(text: str) -> str:
    """An answer as the official VQA v2 evaluator rewrites it before comparing.

    A mark goes without trace where it stands beside a space anywhere in the answer, or where the answer has a number
    with a thousands comma; else it becomes a space. Periods stay only before a digit.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    beside_space = {mark for mark in _PUNCTUATION if f"{mark} " in text or f" {mark}" in text}
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if in_number or mark in beside_space else " ")
    text = _PERIOD.sub("", text)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def _chinese_text(text: str) -> str:
    """NFKC and lower case, without white space and punctuation; "%" and marks between two digits (3.5, 3:30) stay."""
    text = re.sub(r"(?<=\d),(?=\d)", "", unicodedata.normalize("NFKC", text).lower())
    marks = [c.isspace() or (c != "%" and unicodedata.category(c)[0] == "P") for c in text]
    in_number = {match.start() for match in re.finditer(r"(?<=\d)[.:/-](?=\d)", text)}
    return "".join(c for i, c in enumerate(text) if not marks[i] or i in in_number)


@lru_cache(maxsize=100_000)  # the same few answers come again and again
def normalise(text: str, language: str) -> str:
    """The form in which two answers are compared (see :data:`NORMALISATION`); ``language`` is "en" or "zh".

    An answer that is nothing but articles or marks ("A", "?") keeps them: else it would equal an empty answer.
    """
    short = _chinese_text(text) if language == "zh" else _vqa_text(text)
    return short or text.strip().lower()


def exact_match(prediction: str, references: Iterable[str], language: str) -> bool:
    """Whether the answer equals any of the references after :func:`normalise`."""
    answer = normalise(prediction, language)
    return any(answer == normalise(reference, language) for reference in references)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The official VQA v2 accuracy, 0 to 1: min(people who said it / 3, 1), averaged over leaving each one out.

    As in the official evaluator, ten answers that are all the same are compared as they are, without any rewriting:
    "Net." does not match ten times "net".
    """
    prediction, answers = (_trimmed(prediction), [_trimmed(answer) for answer in answers])
    if len(set(answers)) > 1:
        prediction, answers = _vqa_text(prediction), [_vqa_text(answer) for answer in answers]
    same = [answer == prediction for answer in answers]
    return sum(min((sum(same) - own) / 3, 1.0) for own in same) / len(same)


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


# ---------------------------------------------------------------------------------------------- captions


def caption_packages(languages: Iterable[str] = ()) -> dict[str, str]:
    """Names and versions of the packages that scoring captions in these languages takes.

    Raises:
        ModuleNotFoundError: one of them is not installed.
    """
    _scorers()
    names = ["pycocoevalcap"]
    if "zh" in languages:
        _segmenter()
        names.append("jieba")
    return {name: importlib.metadata.version(name) for name in names}


def caption_tokens(text: str, language: str) -> list[str]:
    """The words of a caption, by the rules in :data:`CAPTION_TOKENS`."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    if language != "zh":
        return re.findall(r"[^\W_]+(?:['.-][^\W_]+)*", text)
    return [word for word in _segmenter()(text) if any(character.isalnum() for character in word)]


def caption_scores(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str) -> dict:
    """BLEU-1 to 4, ROUGE-L and CIDEr of a corpus of captions in one language, with their number ``n``.

    All but CIDEr (0 to 10) lie in 0 to 1. CIDEr is None for a single caption: it weighs words by how rare they are
    among the others.
    """
    words = [caption_tokens(prediction, language) for prediction in predictions]
    return token_scores(words, [[caption_tokens(text, language) for text in texts] for texts in references])


def token_scores(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> dict:
    """:func:`caption_scores` of captions already cut into words, by the scorers of pycocoevalcap."""
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} captions with {len(references)} lists of references cannot be scored")
    bleu, rouge, cider = _scorers()
    said = {i: [" ".join(words)] for i, words in enumerate(predictions)}
    wanted = {i: [" ".join(words) for words in texts] for i, texts in enumerate(references)}
    scores: dict = {"n": len(predictions)}
    for n, value in enumerate(bleu(4).compute_score(wanted, said, verbose=0)[0], start=1):
        scores[f"BLEU-{n}"] = float(value)
    scores["ROUGE-L"] = float(rouge().compute_score(wanted, said)[0])
    scores["CIDEr"] = float(cider().compute_score(wanted, said)[0]) if len(said) > 1 else None
    return scores


def _scorers() -> tuple:
    """The classes of the three scorers that need neither Java nor a download."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    return Bleu, Rouge, Cider


@lru_cache(maxsize=1)
def _segmenter():
    """jieba's function that cuts a Chinese text into words, with a vocabulary of its own and without its chatter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and pkg_resources in jieba's own source
        import jieba
    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer().lcut  # not the shared one: words added to that elsewhere would move the scores


# ---------------------------------------------------------------------------------------------- kinds of questions

_SIZE_WORDS = {
    "large",
    "small",
    "big",
    "little",
    "tiny",
    "huge",
    "larger",
    "smaller",
    "bigger",
    "spacious",
    "tall",
    "short",
}
_COLOR_WORDS = set("red orange yellow green blue purple violet pink brown black white gray grey beige tan".split())
_SHAPE_WORDS = set("circle square triangle star rectangle oval round circular rectangular triangular".split())
_CAPTION_EN = re.compile(
    r"((please|can you|could you|would you|will you) )*describe\b"
    r"|(what (can|do) you see|what is shown|what's shown|what is|what's|what does) ?(in |there in )?"
    r"(the|this) (image|picture|photo|scene)( show| depict| about)?$"
    r"|((please|can you|could you) )*(provide|give|share|present|write|offer|render|relay|create) .*"
    r"\b(description|summary|explanation|interpretation|account|narrative|overview|caption)\b"
    r"|(please )?(summari[sz]e|caption) the .*(image|picture|photo|scene)"
)
_YES_NO_EN = re.compile(
    r"(is|are|am|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must"
    r"|isn't|aren't|wasn't|weren't|don't|doesn't|didn't|hasn't|haven't|can't|won't)\b"
)
_REQUEST_EN = re.compile(r"(can|could|would|will) you (?!see\b|spot\b|find\b|tell (if|whether)\b)")
_CAPTION_ZH = re.compile(
    r"描述|^(请|你|帮我|能|可以)*((概括|介绍|说明|说说|讲讲)(一下)?(这|该|此|图)|(给|为)(这|该|此)|写(出|下)?一[段句个])|用.{1,3}句话"
    r"|^(这|该)?[张幅]?(图|照片|画面)[片像]?[中里上内]?(面|都)?(展示了?|显示了?|描绘了?|拍了?|画了?|有|是)(些|的是)?(什么|啥)(内容)?$"
    r"|看(到|见)了?(些)?(什么|啥)$"
)


def question_type(question: str, references: Sequence[str] = ()) -> str:
    """Which of :data:`KINDS` a question is, by its words; Chinese rules where there is a Chinese character.

    "caption" is a request to describe, or a question with several references that are sentences. A choice
    ("Is it parked or moving?") is of the kind of its alternatives where they are colours, sizes or shapes, else
    "other", unless every reference says yes or no.
    """
    if len(references) > 1 and sum(is_sentence(text) for text in references) * 2 > len(references):
        return "caption"
    if re.search(r"[\u3400-\u9fff]", question):
        return _type_zh(re.sub(r"[\s。？?！!.]+$", "", unicodedata.normalize("NFKC", question)))
    return _type_en(" ".join(question.lower().replace("’", "'").split()), references)


def is_sentence(text: str) -> bool:
    """Five words or eight Chinese characters: too long to be met exactly by another way of saying it."""
    chinese = len(re.findall(r"[\u3400-\u9fff]", text))
    return chinese >= 8 if chinese else len(text.split()) >= 5


def _type_en(question: str, references: Sequence[str]) -> str:
    # What stands before the question itself: "In the image, what color ...".
    question = re.sub(r"^(in|on|at|from|based on|looking at|according to)\b[^,?]*, ", "", question)
    first = re.match(r"[^?.!]*", question)[0].strip()
    if _CAPTION_EN.match(first):
        return "caption"
    if re.match(r"(in |on |at )?(what|which|how|where)\b", first):
        return _wh_type_en(first)
    if _REQUEST_EN.match(first) or not _YES_NO_EN.match(first):
        return "other"
    choice = re.search(r"(\w+),? or (?:a |an |the )?(?!not\b)(\w+)", first)
    if not choice or (references and all(re.match(r"\W*(yes|no)\b", text.lower()) for text in references)):
        return "yes/no"
    for kind, words in (("size", _SIZE_WORDS), ("color", _COLOR_WORDS), ("shape", _SHAPE_WORDS)):
        if words & set(choice.groups()):
            return kind
    return "other"


def _wh_type_en(question: str) -> str:
    for kind, pattern in (
        ("count", r"how many\b|what (is the )?number of\b"),
        ("color", r"(in |on |at )?(what|which)\b.*\bcolou?rs?\b"),
        ("shape", r"(in |on |at )?(what|which)\b.*\bshapes?\b"),
        ("size", r"(what|which)\b.*\bsizes?\b|how (big|large|small|tall|long|wide|high)\b"),
        (
            "place",
            r"where\b|what is the (exact )?(location|whereabouts)\b|(in |on |at )(what|which) (place|room|side|corner)",
        ),
    ):
        if re.match(pattern, question):
            return kind
    return "other"


def _type_zh(question: str) -> str:
    if _CAPTION_ZH.search(question):
        return "caption"
    asks_through = re.search(r"知道|告诉|看出|看得出", question)  # "do you know where ...?" asks where
    if not asks_through and re.search(r"吗|是否|(.)[不没]\1", question):
        return "yes/no"
    for kind, pattern in (
        ("count", r"(?<![这那好])几(?!点|乎|时)|多少(?!钱|度)|数量"),
        ("size", r"大还是.*小|小还是.*大|多(大|高|长|宽)(?!年|岁)|大小|尺寸"),
        ("color", r"颜色|什么色|色的?还是"),
        ("shape", r"形状|什么形|形还是"),
        ("place", r"哪里|哪儿|在哪|何处|什么(地方|位置|地点)|位置"),
    ):
        if re.search(pattern, question):
            return kind
    return "yes/no" if re.search(r"吗|是否", question) else "other"


# ---------------------------------------------------------------------------------------------- floors


@dataclass(frozen=True)
class Pair:
    """A question with its reference answers, as the floors see it: ``image`` only tells which belong together."""

    question: str
    references: tuple[str, ...]
    language: str
    kind: str
    image: str


class _AnswerTable:
    """How often each answer was given, per question text, per kind of question, and in all."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.counts: dict[Hashable, Counter] = defaultdict(Counter)
        self.surface: dict[str, str] = {}  # normalised answer -> the first way it was written
        for pair in pairs:
            # A question with several references is satisfied by any of them, and by each only once.
            for answer, text in {normalise(text, pair.language): text for text in pair.references}.items():
                self.surface.setdefault(answer, text)
                for key in _keys(pair):
                    self.counts[key][answer] += 1
        self.ranked = {key: sorted(c.items(), key=lambda item: (-item[1], item[0])) for key, c in self.counts.items()}

    def best(self, keys: Iterable[Hashable], without: _AnswerTable | None = None) -> str:
        """The commonest answer under the first key that has any, not counting the pairs of ``without``; "" if none."""
        for key in keys:
            own = without.counts.get(key, {}) if without else {}
            best, most = "", 0
            for answer, count in self.ranked.get(key, ()):
                if count <= most:
                    break
                if count - own.get(answer, 0) > most:
                    best, most = self.surface[answer], count - own.get(answer, 0)
            if most:
                return best
        return ""


def _keys(pair: Pair) -> list[Hashable]:
    """From the narrowest to the widest."""
    text = " ".join(pair.question.lower().split())
    return [("question", pair.language, text), ("kind", pair.language, pair.kind), "all"]


def majority_answer(asked: Sequence[Pair], train: Sequence[Pair] | None = None) -> list[str]:
    """For each question asked, the one commonest answer of all: what a model that reads nothing can say.

    Without ``train`` it is counted on the questions asked themselves, leaving out all those of the same image: a
    floor fitted on the very answers it is scored on would be unbeatable where every question is unique.
    """
    return _floor(asked, train, narrowest=2)


def question_only(asked: Sequence[Pair], train: Sequence[Pair] | None = None) -> list[str]:
    """For each question asked, the commonest answer to that very text: what a model that never looks can say.

    A text not seen before gets the commonest answer of its kind in its language, else of all. Without ``train`` as in
    :func:`majority_answer`.
    """
    return _floor(asked, train, narrowest=0)


def _floor(asked: Sequence[Pair], train: Sequence[Pair] | None, narrowest: int) -> list[str]:
    table = _AnswerTable(asked if train is None else train)
    own: dict[str, _AnswerTable] = {}
    if train is None:
        of_image = defaultdict(list)
        for pair in asked:
            of_image[pair.image].append(pair)
        own = {image: _AnswerTable(pairs) for image, pairs in of_image.items()}
    return [table.best(_keys(pair)[narrowest:], without=own.get(pair.image)) for pair in asked]


# ---------------------------------------------------------------------------------------------- how sure


def clustered_mean(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float]:
    """The mean and its standard error when values of one group (the questions on one image) hang together.

    The error is infinite where there is only one group: nothing then says how another would have scored.
    """
    mean = sum(values) / len(values)
    off: dict[Hashable, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        off[group] += value - mean
    if len(off) < 2:
        return mean, math.inf
    return mean, math.sqrt(len(off) / (len(off) - 1) * sum(x * x for x in off.values())) / len(values)


def clearly_above(
    scores: Sequence[float], others: Sequence[float], groups: Sequence[Hashable]
) -> tuple[float, float, bool]:
    """Difference of two score lists of the same questions, its standard error, and whether it is clear.

    Clear is more than two standard errors, of the paired differences clustered by group, and more than nothing.
    """
    difference, error = clustered_mean([a - b for a, b in zip(scores, others, strict=True)], groups)
    return difference, error, difference > 0 and difference > 2 * error
