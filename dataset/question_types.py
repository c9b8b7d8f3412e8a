"""The type of a question (colour, count, yes/no, caption, ...), by its words in English or Chinese."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from dataset.boxes import boxes_in
from dataset.choices import bare_options, chosen_label, options_in

MULTIPLE_CHOICE = "multiple choice"
GROUNDING, REGION = "grounding", "region"
TYPES = ("color", "shape", "size", "place", "count", "yes/no", GROUNDING, REGION, MULTIPLE_CHOICE, "caption", "other")

SIZE_WORDS = set("large small big little tiny huge larger smaller bigger spacious tall short".split())
COLOR_WORDS = set("red orange yellow green blue purple violet pink brown black white gray grey beige tan".split())
SHAPE_WORDS = set("circle square triangle star rectangle oval round circular rectangular triangular".split())
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
    """Which of :data:`TYPES` a question is, by its words; by the Chinese rules if it has a Chinese character.

    "caption" is a request to describe, or a question with several references that are sentences. A choice between
    colours, sizes or shapes is of that type; another choice ("Is it parked or moving?") is "other", unless every
    reference says yes or no.
    """
    if len(references) > 1 and sum(is_sentence(text) for text in references) * 2 > len(references):
        return "caption"
    if re.search(r"[\u3400-\u9fff]", question):
        return _type_zh(re.sub(r"[\s。？?！!.]+$", "", unicodedata.normalize("NFKC", question)))
    return _type_en(without_preamble(question), references)


def is_sentence(text: str) -> bool:
    """Five words or eight Chinese characters: too long for another wording to match it exactly."""
    chinese = len(re.findall(r"[\u3400-\u9fff]", text))
    return chinese >= 8 if chinese else len(text.split()) >= 5


def without_preamble(question: str) -> str:
    """In lower case, without what comes before the question itself: "In the image, what color ..."."""
    question = " ".join(question.lower().replace("’", "'").split())
    return re.sub(r"^(in|on|at|from|based on|looking at|according to)\b[^,?]*, ", "", question)


def _type_en(question: str, references: Sequence[str]) -> str:
    first = re.split(r"[?.!]", question, maxsplit=1)[0].strip()
    if _CAPTION_EN.match(first):
        return "caption"
    if re.match(r"(in |on |at )?(what|which|how|where)\b", first):
        return _wh_type_en(first)
    if _REQUEST_EN.match(first) or not _YES_NO_EN.match(first):
        return "other"
    choice = re.search(r"(\w+),? or (?:a |an |the )?(?!not\b)(\w+)", first)
    if not choice or (references and all(re.match(r"\W*(yes|no)\b", text.lower()) for text in references)):
        return "yes/no"
    for name, words in (("size", SIZE_WORDS), ("color", COLOR_WORDS), ("shape", SHAPE_WORDS)):
        if words & set(choice.groups()):
            return name
    return "other"


def _wh_type_en(question: str) -> str:
    for name, pattern in (
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
            return name
    return "other"


def _type_zh(question: str) -> str:
    if _CAPTION_ZH.search(question):
        return "caption"
    asks_through = re.search(r"知道|告诉|看出|看得出", question)  # "do you know where ...?" asks where
    if not asks_through and re.search(r"吗|是否|(.)[不没]\1", question):
        return "yes/no"
    for name, pattern in (
        ("count", r"(?<![这那好])几(?!点|乎|时)|多少(?!钱|度)|数量"),
        ("size", r"大还是.*小|小还是.*大|多(大|高|长|宽)(?!年|岁)|大小|尺寸"),
        ("color", r"颜色|什么色|色的?还是"),
        ("shape", r"形状|什么形|形还是"),
        ("place", r"哪里|哪儿|在哪|何处|什么(地方|位置|地点)|位置"),
    ):
        if re.search(pattern, question):
            return name
    return "yes/no" if re.search(r"吗|是否", question) else "other"


def kind_of(turn: Mapping, text: str, language: str) -> tuple[str, list[str]]:
    """The type of a turn's question, and its options if it is multiple choice.

    ``turn`` has "q", "a", and where the data tell them "type" and "options"; without these, options may be listed in
    the question. They count only if each reference chooses one: "Does A. Smith or B. Jones play?" is answered by yes.
    The type is the data's own, unless the question asks for a caption. Questions whose answers are boxes are of type
    "grounding", questions about boxes of type "region".
    """
    if all(map(boxes_in, turn["a"])):
        return turn.get("type") or GROUNDING, []
    options = bare_options(turn.get("options") or options_in(turn["q"])[1])
    if options and all(chosen_label(reference, options, language) for reference in turn["a"]):
        return turn.get("type") or MULTIPLE_CHOICE, options
    found = REGION if boxes_in(text) else question_type(text, turn["a"])
    return found if found == "caption" else turn.get("type") or found, []
