"""The tokenizer of a Qwen: its control tokens, the placeholder of images, and ChatML's template.

Importing this module imports neither torch nor transformers: the processes that only read annotations need the
placeholder and no more.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.hub import model_folder, read_config
from common.llava import is_llava

IMAGE_TOKEN = "<|extra_0|>"  # one visual token each; Qwen-1's first spare token, hence the name
# In a row of several message trees, tree n has the segments n * TREE_STRIDE (its root) and the numbers after it.
TREE_STRIDE = 1 << 16
IGNORE_INDEX = -100  # the label of a token that is not learnt; torch's cross entropy skips it

# For base models, which come without one. dataset/prompt.py builds this project's prompts; the template is for other
# programs that open a checkpoint's tokenizer.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# The marks of boxes (dataset/boxes.py) and the control tokens for them: Qwen-VL's own, else those of Qwen2.5 and later.
BOX_TOKENS = {
    "<ref>": ("<ref>", "<|object_ref_start|>"),
    "</ref>": ("</ref>", "<|object_ref_end|>"),
    "<box>": ("<box>", "<|box_start|>"),
    "</box>": ("</box>", "<|box_end|>"),
}

PICTURE_TOKENS = ("<img>", "</img>")  # around the visual tokens of a picture, in a Qwen-VL

Tokenizer = Any  # transformers' PreTrainedTokenizerFast, which has no types


class TokenError(ValueError):
    """A control token that a tokenizer lacks."""


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a control token. It is looked up and never written down: it differs between Qwen families.

    Raises:
        TokenError: the tokenizer lacks it.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or tokenizer.convert_ids_to_tokens(found) != token:  # unknown tokens get the id of another
        raise TokenError(f"the tokenizer has no {token} token; is this a Qwen tokenizer?")
    return found


def picture_ids(tokenizer: Tokenizer, visual_tokens: int) -> list[int]:
    """The ids that a picture takes in a prompt: its placeholders, between the tokens that mark them if it has such."""
    ids = [token_id(tokenizer, IMAGE_TOKEN)] * visual_tokens
    if PICTURE_TOKENS[0] not in tokenizer.added_tokens_encoder:
        return ids
    begin, end = (token_id(tokenizer, token) for token in PICTURE_TOKENS)
    return [begin, *ids, end]


@lru_cache(maxsize=16)
def box_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """The control token of each mark of boxes; {} if the tokenizer lacks one of them."""
    known = tokenizer.added_tokens_encoder
    pairs = zip(*BOX_TOKENS.values(), strict=True)
    return next((dict(zip(BOX_TOKENS, names, strict=True)) for names in pairs if set(names) <= known.keys()), {})


def untrained_box_rows(tokenizer: Tokenizer) -> list[int]:
    """Ids of the control tokens of boxes, which no text model has learnt; [] for Qwen-VL's, which it has."""
    tokens = box_tokens(tokenizer)
    return [] if tokens.get("<box>") == "<box>" else [token_id(tokenizer, token) for token in tokens.values()]


def load_tokenizer(path: str, boxes: bool = False) -> Tokenizer:
    """The base model's tokenizer, with ``<|extra_0|>`` added where it is not native (Qwen1.5 and later).

    The new token takes the first id after the vocabulary. Qwen's matrices have spare rows there (151,936 rows for
    151,665 tokens in Qwen2.5), so nothing has to grow. A base model without a chat template gets ChatML's.
    With ``boxes`` the tokenizer has the control tokens of boxes too.

    Raises:
        UserError: there is no readable tokenizer, or it lacks ChatML's tokens.
    """
    from transformers import AddedToken, AutoTokenizer  # takes seconds

    folder = Path(model_folder(path, "language.path"))
    try:
        if (folder / "qwen.tiktoken").is_file():
            from qwen.qwen1_tokenizer import load_qwen1_tokenizer

            tokenizer = load_qwen1_tokenizer(folder)
        elif (folder / "config.json").is_file() and is_llava(read_config(folder, "model")):
            from qwen.llava_tokenizer import load_llava_tokenizer

            tokenizer = load_llava_tokenizer(folder)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # for a damaged file, transformers and tokenizers raise nearly any class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"language.path: no readable tokenizer in {path} ({reason})") from error
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    try:
        for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
            token_id(tokenizer, token)
    except TokenError as error:
        raise UserError(f"language.path = {path}: {error}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = "<|endoftext|>"
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHATML
    if boxes:
        _add_box_tokens(tokenizer)
    return tokenizer


def _add_box_tokens(tokenizer: Tokenizer) -> None:
    """Add the control tokens of boxes, in spare rows of the model, if there are none."""
    from transformers import AddedToken

    if not box_tokens(tokenizer):
        names = [AddedToken(names[1], special=True, normalized=False) for names in BOX_TOKENS.values()]
        tokenizer.add_tokens(names, special_tokens=True)
        box_tokens.cache_clear()
