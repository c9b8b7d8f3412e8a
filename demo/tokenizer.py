"""The demo's tokenizer: a byte-level BPE in Qwen2's file format, trained on the demo's texts and on made-up words.

Each of the 3,755 commonest Chinese characters is one token, and an English word is mostly two to five. With a
tokenizer of the demo's texts alone (552 tokens), in which a Chinese character took three tokens, a language model that
was trained in the same way answered 0.89 of the yes-or-no questions of the signs in demo/elsewhere.py, not 1.00.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from tokenizers import pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from demo import BACKBONES, SYSTEM, scenes
from demo.made_up import CHARACTERS, draw_word

CHARACTER_COUNT = 150
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def train_tokenizer() -> None:
    """A byte-level BPE with Qwen2's normaliser and split pattern, in Qwen2's file format."""
    backend = Qwen2Tokenizer().backend_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # A character occurs CHARACTER_COUNT times, a word of the demo at least 160 times.
    trainer = trainers.BpeTrainer(vocab_size=8000, min_frequency=140, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(_tokenizer_corpus(), trainer)
    bpe = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in bpe["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=bpe["vocab"], merges=merges, eos_token="<|im_end|>", model_max_length=2048)
    tokenizer.add_tokens(list(CONTROL_TOKENS), special_tokens=True)
    tokenizer.save_pretrained(BACKBONES / "qwen")
    print(f"tokenizer: {len(tokenizer)} tokens")


def _tokenizer_corpus() -> Iterator[str]:
    """The demo's texts eight times, made-up English words, of which half follow a space, and Chinese characters."""
    rng = random.Random(0)
    for _ in range(8):
        yield from _demo_texts()
    for _ in range(60_000):
        word = draw_word(rng, "en", long=1.0)
        yield word if rng.random() < 0.5 else " " + word
    for character in CHARACTERS:
        yield from [character] * CHARACTER_COUNT


def _demo_texts() -> Iterator[str]:
    """Texts of the demo, with Chinese as single words: a run of Chinese is one pre-token, so that whole sentences would
    become single tokens."""
    rng = random.Random(0)
    words = "图中 有 没有 几个 一个 的 大的 小的 大 小 是 不是 还是 在 哪里 什么 颜色 形状 图形 吗"
    words += " 请描述 这张 图片 yes no large small"
    for _ in range(20):
        for table in (scenes.SHAPES, scenes.COLORS, scenes.PLACES):
            yield from [*table, *table.values()]
        yield from words.split()
        yield from "，。？！、：；"
    for _ in range(2000):
        scene = scenes.draw_scene(rng)
        yield scenes.caption(scene, "en", rng.randint(0, 1))
        yield scenes.ask(scene, "en", rng).question
    for _ in range(100):
        yield from (SYSTEM, "system\n", "user\n", "assistant\n", *scenes.DESCRIBE["en"])
