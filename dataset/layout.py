"""The texts of a prompt around what is said: ChatML's, or those of a LLaVA's own chat template.

A model that was taught in the words of its template must be asked in them. So the template of a LLaVA (it writes the
image placeholder) is rendered with marks where the texts belong, and cut at the marks. What the pieces give is then
compared with what the template gives, for conversations with and without pictures. Templates of language models write
no placeholder. For those this project has one layout, ChatML.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from common.errors import UserError
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer

NO_THOUGHTS = "<think>\n\n</think>\n\n"  # before an answer: turns the thinking of Qwen3 off


@dataclass(frozen=True)
class Layout:
    """The literal texts of a prompt. Control tokens in them are control tokens."""

    first: str  # before the first question, where no system message is given
    system: tuple[str, str] | None  # before a system message, and from it to the first question; None: there is none
    following: str  # from the end of an answer to the next question
    between_images: str
    after_images: str  # between the pictures of a question and its text
    no_image: str  # before the text of a question without pictures
    opening: str  # from a question to the answer that is asked for
    earlier: str  # from a question to an answer that was given before
    lead: str  # begins every answer, and is learnt
    end: str  # the control token that ends an answer, and is learnt
    ends_each: bool  # False: the template does not end answers, and only the last one gets ``end``
    last: str  # after the end of the last answer, where nothing is asked
    apart: bool = False  # questions are encoded by themselves, not together with the text before them

    def question(self, text: str) -> str:
        """A question as the template writes it: ``text`` begins with its pictures and a line break, or has none."""
        bare, images = text, 0
        while bare.startswith(IMAGE_TOKEN):
            bare, images = bare.removeprefix(IMAGE_TOKEN), images + 1
        if images and bare.startswith("\n") and IMAGE_TOKEN not in bare:
            return self.between_images.join([IMAGE_TOKEN] * images) + self.after_images + bare.removeprefix("\n")
        return text if images else self.no_image + text


def chatml(thoughts: bool) -> Layout:
    """Qwen's ChatML; ``thoughts``: every answer follows the empty thoughts that turn Qwen3's thinking off."""
    user, answer = "<|im_start|>user\n", "<|im_start|>assistant\n" + NO_THOUGHTS * thoughts
    return Layout(
        first=user,
        system=("<|im_start|>system\n", "<|im_end|>\n" + user),
        following="\n" + user,
        between_images="",
        after_images="\n",
        no_image="",
        opening="<|im_end|>\n" + answer,
        earlier="<|im_end|>\n" + answer,
        lead="",
        end="<|im_end|>",
        ends_each=True,
        last="\n",
        apart=True,
    )


def layout_of(tokenizer: Tokenizer, thinking: bool) -> Layout:
    """The layout of a model's prompts.

    Raises:
        UserError: the model is a LLaVA whose chat template cannot be followed.
    """
    return _layout_of(tokenizer, str(tokenizer.chat_template), thinking)


@lru_cache(maxsize=16)
def _layout_of(tokenizer: Tokenizer, template: str, thinking: bool) -> Layout:
    if IMAGE_TOKEN in template:
        return _followed(tokenizer, thinking)
    return chatml(thoughts=not thinking and can_think(tokenizer))


def can_think(tokenizer: Tokenizer) -> bool:
    """Whether the model's own template has a switch for thinking, as Qwen3's has."""
    return "enable_thinking" in str(tokenizer.chat_template)


# ---------------------------------------------------------------------------------------------- a template's pieces

# Marks that no template writes; letters only, so that no template's filter changes them.
_SYSTEM, _Q1, _A1, _Q2 = "XSYSTEMX", "XFIRSTX", "XREPLYX", "XSECONDX"


def _followed(tokenizer: Tokenizer, thinking: bool) -> Layout:
    try:
        layout = _cut(tokenizer, thinking)
        same = all(_written(layout, talk) == _rendered(tokenizer, talk, thinking) for talk in _trials(layout))
    except Exception as error:  # Jinja raises many classes, and a mark that is not there is a ValueError
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"model: its chat template cannot be followed ({reason})") from None
    if not same:
        raise UserError("model: its chat template cannot be followed: what it writes depends on more than the turn")
    return layout


def _cut(tokenizer: Tokenizer, thinking: bool) -> Layout:
    """The pieces of the template between the marks."""

    def rendered(*talk: tuple[str, str, int]) -> str:
        return _rendered(tokenizer, list(talk), thinking)

    asked = rendered(("user", _Q1, 0))
    first, opening = asked.split(_Q1)
    shown = rendered(("user", _Q1, 2))
    head, between_images, rest = shown.split(IMAGE_TOKEN)
    after_images, _ = rest.split(_Q1)
    no_image = first.removeprefix(head)
    talk = rendered(("user", _Q1, 0), ("assistant", _A1, 0), ("user", _Q2, 0))
    earlier = talk.split(_Q1)[1].split(_A1)[0]
    after = talk.split(_A1)[1].split(_Q2)[0].removesuffix(no_image)
    end = next((token for token in tokenizer.added_tokens_encoder if after.startswith(token)), "")
    last = rendered(("user", _Q1, 0), ("assistant", _A1, 0)).split(_A1)[1].removeprefix(end)
    lead = ""
    if earlier.startswith(opening):
        earlier, lead = opening, earlier.removeprefix(opening)
    return Layout(
        first=head,
        system=_system(tokenizer, thinking, no_image),
        following=after.removeprefix(end),
        between_images=between_images,
        after_images=after_images,
        no_image=no_image,
        opening=opening,
        earlier=earlier,
        lead=lead,
        end=end or tokenizer.eos_token,
        ends_each=bool(end),
        last=last,
    )


def _system(tokenizer: Tokenizer, thinking: bool, no_image: str) -> tuple[str, str] | None:
    try:
        text = _rendered(tokenizer, [("system", _SYSTEM, 0), ("user", _Q1, 0)], thinking)
        before, after = text.split(_Q1)[0].split(_SYSTEM)
    except Exception:  # a template without system messages raises, or leaves the text out
        return None
    return before, after.removesuffix(no_image)


def _rendered(tokenizer: Tokenizer, talk: list[tuple[str, str, int]], thinking: bool) -> str:
    """What the template makes of (role, text, number of pictures)."""
    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}
        for role, text, images in talk
    ]
    asks = talk[-1][0] == "user"
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks, enable_thinking=thinking)


def _trials(layout: Layout) -> list[list[tuple[str, str, int]]]:
    trials = [
        [("user", "a b", 1)],
        [("user", "a", 0), ("assistant", "b", 0), ("user", "c", 2), ("assistant", "d", 0), ("user", "e", 0)],
        [("user", "a", 1), ("assistant", "b", 0)],
    ]
    return [*trials, *([[("system", "s", 0), *trials[1]]] if layout.system else [])]


def _written(layout: Layout, talk: list[tuple[str, str, int]]) -> str:
    """What the layout makes of the same conversation, as dataset.prompt.build_prompt puts it together."""
    system = next((text for role, text, _ in talk if role == "system"), None)
    before, after = layout.system or ("", "")
    text = layout.first if system is None else before + system + after
    turns = [entry for entry in talk if entry[0] != "system"]
    for index, (role, said, images) in enumerate(turns):
        left = len(turns) - 1 - index
        if role == "user":
            text += layout.following if index else ""
            text += layout.question(IMAGE_TOKEN * images + "\n" * bool(images) + said)
            text += layout.earlier if left else layout.opening
        else:
            text += layout.lead + said + (layout.end if layout.ends_each else "") + ("" if left else layout.last)
    return text
