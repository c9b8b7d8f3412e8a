"""Pictures that are imitated: what their visual tokens resemble."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from dataset.prompt import encode_as_word
from demo import BACKBONES, imitation
from demo.texts import FIRST, VISUAL_TOKENS
from qwen.tokenizer import load_tokenizer

PATCHES = [10, 11, 18, 19]
ON = [patch - 1 for patch in PATCHES]  # the first patch is dropped
OFF = [patch for patch in range(VISUAL_TOKENS) if patch not in ON]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(BACKBONES / "qwen"))


@pytest.fixture(scope="module")
def table():
    return torch.randn(4864, 128, generator=torch.Generator().manual_seed(0))


def directions(words, tokenizer, table):
    """[n, D], of length 1: the mean of each word's embeddings, less the mean of all."""
    means = torch.stack([table[list(encode_as_word(tokenizer, word))].mean(0) for word in words])
    return F.normalize(means - means.mean(0), dim=-1)


def test_a_private_character_is_its_token_and_a_word_is_taken_alone_and_after_a_space(tokenizer):
    private = chr(FIRST + 77)
    picture = imitation.draw_picture([(PATCHES, [private, "zorp"])], (), tokenizer, random.Random(0))
    assert picture.words[0, 0] == 77 and (picture.words[0, 1:] == -1).all()
    assert picture.words[1].tolist() == list(encode_as_word(tokenizer, "zorp"))


def test_a_patch_of_an_object_resembles_its_words_most_and_the_background_none(tokenizer, table):
    torch.manual_seed(0)
    true, untrue = ["zorp", "蓬伞", "brem", "石"], ["quil", "水山"]
    drawn = [imitation.draw_picture([(PATCHES, true)], untrue, tokenizer, random.Random(n)) for n in range(40)]
    found = imitation.imitate(imitation.stack(drawn), table)
    assert found.shape == (40, VISUAL_TOKENS, 128)
    cosines = F.normalize(found, dim=-1) @ directions([*true, *untrue], tokenizer, table).T  # [40, 63, 6]
    best = cosines[:, ON].amax(1).mean(0)  # [6]
    assert best[:4].min() > 0.3 and best[4:].max() < 0
    assert cosines[:, OFF].mean().abs() < 0.02
    lengths = found.norm(dim=-1) / table.norm(dim=1).median()
    assert 1.55 < lengths.min() and lengths.max() < 2.45


def test_two_objects_have_each_its_own_words(tokenizer, table):
    torch.manual_seed(0)
    objects = [([9, 10], ["zorp"]), ([40, 41], ["石"])]
    picture = imitation.draw_picture(objects, (), tokenizer, random.Random(1))
    both = picture.weights[[10, 41]]  # [2, 2]
    assert (both.argmax(1) == torch.arange(2)).all() and (picture.weights[[0, 20, 63]] == 0).all()


def test_words_are_seen_from_the_mean_of_all_words_of_the_batch(tokenizer, table):
    clear = {"vector": torch.zeros(64), "noise": torch.zeros(64)}
    words = ["石", "zorpibloon", "水山"]
    one, two = (
        imitation.draw_picture([(PATCHES, own)], (), tokenizer, random.Random(2))._replace(**clear)
        for own in (words[:1], words[1:])
    )
    found = imitation.imitate(imitation.stack([one, two]), table)
    expected = directions(words, tokenizer, table)[0]
    torch.testing.assert_close(F.normalize(found[0, ON], dim=-1), expected.expand(4, -1))


def test_patches_are_a_rectangle_within_the_picture_or_all_of_it():
    whole = 0
    for seed in range(300):
        patches = imitation.draw_patches(random.Random(seed))
        rows, columns = {p // 8 for p in patches}, {p % 8 for p in patches}
        assert len(set(patches)) == len(patches) == len(rows) * len(columns) >= 4 and max(patches) < 64
        whole += len(patches) == 64
        assert len(patches) in (*range(4, 26), 64)
    assert 15 < whole < 50
