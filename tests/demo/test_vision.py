"""What the encoder is taught about the demo's pictures: the words of each patch."""

from __future__ import annotations

from demo.scenes import Thing
from demo.vision import WORDS, words_of_patches


def test_patches_on_an_object_have_its_four_words():
    words = words_of_patches((Thing("star", "red", "large", "top left"),)).view(8, 8, -1)
    named = {WORDS[k] for k in words[1, 1].nonzero().flatten()}
    assert named == {"star", "red", "large", "top left"}
    assert words[4:].sum() == 0 and words[:, 4:].sum() == 0
