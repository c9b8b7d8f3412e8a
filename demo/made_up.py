"""Made-up words and questions about them, from which the language model learns to find, compare and write any word.

A newcomer's pictures have words that no pretraining can know. So these words are new each time: syllables put together
at random, or random Chinese characters. They stand in a text, or in an imitated picture (demo/imitation.py). The words
of demo/elsewhere.py, whose worlds test how far this reaches, are never among them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo.elsewhere import WORLDS
from demo.texts import FIRST

LANGUAGES = ("en", "zh")
TOKENS = 4800  # of the demo's tokenizer, less the control tokens
MOST = 4  # attributes of what is shown
VALUES = 4  # of an attribute: the one that is shown, and others
NEVER = {word for world in WORLDS.values() for table in world.words.values() for pair in table.items() for word in pair}


@dataclass
class Level:
    """How hard the made-up words are. It rises as soon as enough of the answers are right.

    In steps of 8 lessons, with texts, pictures and all forms of questions from the first step, yes or no was at chance
    for 1,200 steps; with texts of single tokens and one form of each question, 85 % were right after 250. With one
    attribute, pictures then took 300 steps; with one to four, 71 to 74 % were right after 1,100 to 1,300.
    """

    pictures: bool = False
    fewest: int = 2  # attributes
    most: int = MOST
    long: float = 0.0  # share of words of several tokens, and of the forms of questions

    def rise(self, right: Mapping[str, float]) -> None:
        """``right`` are the shares of right answers to yes-or-no questions: "text yes/no", "picture yes/no"."""
        text, picture = (right.get(f"{name} yes/no", 0.0) for name in ("text", "picture"))
        if not self.pictures:
            if text > 0.85:
                self.pictures, self.fewest, self.most = True, 1, 1
        elif self.most == 1:
            if picture > 0.9:
                self.most = 2
        elif text > 0.8 and picture > 0.77:
            if self.long < 1:
                self.long = min(1.0, self.long + 0.02)
            elif self.most < MOST:
                self.most += 1


# ---------------------------------------------------------------------------------------------- words

ONSETS = ["", *"b c d f g h j k l m n p qu r s t v w x y z st tr br cl pl sh ch th gr sp fl cr dr bl sk sw".split()]
NUCLEI = "a e i o u a e i o u ee oo ai ou ea ow y".split()
CODAS = [*[""] * 5, *"n r l t s m d ck ng st ll x p nd er le en th ve se".split()]
# The first level of GB 2312: the 3,755 commonest characters.
CHARACTERS = bytes(byte for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF) for byte in (high, low)).decode(
    "gb2312", errors="ignore"
)


def draw_word(rng: random.Random, language: str, long: float) -> str:
    """A made-up word in a share ``long`` of the cases; else a private character, which stands for a random token."""
    while True:
        if rng.random() >= long:
            return chr(FIRST + rng.randrange(TOKENS))
        if language == "zh":
            word = "".join(rng.choices(CHARACTERS, k=rng.choice((1, 2, 2, 2, 3))))
        else:
            syllables = range(rng.choice((1, 1, 2, 2, 2, 3)))
            word = "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in syllables)[:10]
        if word not in NEVER:
            return word


def draw_values(rng: random.Random, language: str, level: Level) -> list[list[str]]:
    """Some attributes' VALUES, of which the first is shown. In Chinese, they may end alike, as those of colors do."""
    drawn: set[str] = set()
    attributes: list[list[str]] = []
    for _ in range(rng.randint(level.fewest, level.most)):
        ending = rng.choice(CHARACTERS) if language == "zh" and rng.random() < 0.3 * level.long else ""
        values: list[str] = []
        while len(values) < VALUES:
            word = draw_word(rng, language, level.long)
            if ending and ord(word[0]) < FIRST:
                word = word[:2] + ending
            if word not in drawn | NEVER:
                drawn.add(word)
                values.append(word)
        attributes.append(values)
    return attributes


# ---------------------------------------------------------------------------------------------- questions

# {} is what is asked about, {n} a thing that is talked of.
NOUNS = {
    "en": "picture image photo drawing card page sheet poster panel object thing item figure part one piece toy tile "
    "stamp label flag scene view sample".split(),
    "zh": "图片 图像 照片 画 卡片 页面 海报 面板 物体 东西 图形 部分 玩具 邮票 标签 旗子 场景 样本 纸 屏幕 盒子 "
    "桌子".split(),
}
CHECK = {
    "en": """Is it {}?|Is this {}?|Is that {}?|Was it {}?|Does it show {}?|Do you see {}?|Can you see {}?|Is there {}?
Does the {n} show {}?|Is {} in the {n}?|Would you say it is {}?|Was it drawn as {}?|Right or wrong: {}?|Yes or no: {}?
Is the {n} {}?|Does the {n} look {}?|Has the {n} become {}?|Is there on the {n} {}?|Check: {}.
Do you find {} on the {n}?|Does this {n} {n} {}?|Did the {n} get {}?|Is what you see {}?|Could the {n} be {}?
Are these the words for the {n}: {}?|Look at the {n}. Is it {}?|Tell me if it is {}.|Is it true that it is {}?
{}, yes or no?|{}?|Has the {n} got {}?|Does one see {} here?|Is the {n} of the {n} {}?|Would {} be right?""",
    "zh": """是{}吗？|这是{}吗？|那是{}吗？|图中有{}吗？|图中是{}吗？|能看见{}吗？|有没有{}？|是不是{}？|你看到{}了吗？
它是{}吗？|{n}是{}吗？|{n}里有{}吗？|{n}中的{n}是{}吗？|这个{n}是{}吗？|请看：是{}吗？|对不对：{}？
{n}有{}吗？|那是{}吧？|画着{}吗？|是否{}？|{n}的{n}是{}吗？|看看{n}，是{}吗？|说{}对吗？|可以说是{}吗？
{}，对吗？|{}？|这里有{}吗？|{n}能算{}吗？""",
}
CHOOSE = {
    "en": """Is it {} or {}?|Is the {n} {} or {}?|Which is it, {} or {}?|{} or {}?|Do you see {} or {}?
Does the {n} show {} or {}?|Is this {} or rather {}?|{} or {}, which one?|Was the {n} {} or {}?""",
    "zh": """是{}还是{}？|{n}是{}还是{}？|{}还是{}？|这是{}还是{}？|图中是{}还是{}？|你看到的是{}还是{}？
{}和{}，哪个对？|{n}里是{}还是{}？""",
}
REPEAT = {
    "en": "Repeat: {}|Say {}.|Write {}.|Spell {}.|Copy this word: {}|The word is {}. Write it.",
    "zh": "重复：{}|请写{}。|请说{}。|抄写：{}|这个词是{}，请写出来。",
}
FORMS = {
    kind: {language: re.split(r"[|\n]", text) for language, text in forms.items()}
    for kind, forms in (("check", CHECK), ("choose", CHOOSE), ("repeat", REPEAT))
}
SHARES = {"check": 8, "choose": 2, "repeat": 1}
BETWEEN = {"en": (" ", " ", ", ", " and ", ": "), "zh": ("", "", "的", "、", "，")}
ANSWERS = {"en": ("no", "yes"), "zh": ("不是", "是")}


def draw_question(values: Sequence[Sequence[str]], rng: random.Random, language: str, level: Level) -> tuple[str, str]:
    """A question about the first of each attribute's ``values``, and its answer."""
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    shown, *others = rng.choice(values)
    asked, answer = [shown], shown
    if kind == "choose":
        asked = rng.sample([shown, rng.choice(others)], 2)
    elif kind == "repeat":
        asked = [answer := rng.choice([shown, *others])]
    else:
        about, true = rng.sample(values, min(len(values), rng.choice((1, 2)))), rng.random() < 0.5
        asked, answer = [own[0] for own in about], ANSWERS[language][true]
        if not true:
            wrong = rng.randrange(len(about))
            asked[wrong] = rng.choice(about[wrong][1:])
        asked = [rng.choice(BETWEEN[language]).join(asked)]
        if language == "en" and rng.random() < 0.3:
            asked[0] = "a " + asked[0]
    return draw_form(kind, rng, language, level).format(*asked), answer


def draw_form(kind: str, rng: random.Random, language: str, level: Level) -> str:
    """One of the first forms of a kind of question, with nouns in it; up to three in ten of these are made up."""
    forms = FORMS[kind][language]
    form = rng.choice(forms[: 1 + round(level.long * len(forms))])
    while "{n}" in form:
        made_up = rng.random() < 0.3 * level.long
        form = form.replace("{n}", draw_word(rng, language, 1.0) if made_up else rng.choice(NOUNS[language]), 1)
    return form
