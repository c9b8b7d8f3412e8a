"""Conversations longer than language.max_length."""

from __future__ import annotations

import pytest

from dataset.doctor.checks import lengths
from dataset.doctor.finding import CannotCheck


def test_short_conversations_are_measured_without_a_tokenizer(fair, monkeypatch):
    monkeypatch.setattr(lengths, "load_tokenizer", lambda path: pytest.fail("loaded"))
    assert lengths.too_long(fair.examine()) is None


def test_a_conversation_of_many_bytes_and_few_tokens_is_no_finding(fair):
    fair.ask("0.png", "Describe the picture.", "a small red circle at the top left " * 12)
    assert lengths.too_long(fair.examine()) is None


def test_conversations_that_are_cut_or_left_out(fair):
    long = "a small red circle at the top left and " * 70
    fair.ask("0.png", "Describe the picture.", long)
    fair.ask("1.png", *[text for i in range(40) for text in (f"Is there a circle number {i}?", "yes, a small one")])
    finding = lengths.too_long(fair.examine())
    assert finding.problem == (
        "language.max_length = 512: 1 of 74 conversations (1.4 %) are too long and left out, "
        "1 of 74 conversations (1.4 %) lose their oldest turns"
    )
    assert {line.partition(":")[0] for line in finding.examples} == {"conversation 0/3", "conversation 1/3"}


def test_a_system_text_of_its_own_counts(fair):
    fair.ask("0.png", "Is there a cat?", "no")
    fair.annotations["0"][-1]["system"] = "a small red circle at the top left and " * 70
    assert lengths.too_long(fair.examine()).examples[0].startswith("conversation 0/3: ")


def test_the_bound_of_a_conversation_is_never_below_its_tokens(fair):
    """With one byte a token nothing but what is around the turns decides."""
    fair.ask("0.png", *["?" for _ in range(40)])
    fair.language["max_length"] = 260
    assert lengths.too_long(fair.examine()) is not None


def test_the_training_leaves_out_the_same_conversations(fair):
    from dataset.image import load_image_processor
    from dataset.image_caption_dataset import ImageCaptionDataset
    from qwen.tokenizer import load_tokenizer

    fair.ask("0.png", "Describe the picture.", "a small red circle at the top left and " * 70)
    config = fair.config("data.max_skipped=0.5")
    tokenizer, processor = load_tokenizer(config.language.path), load_image_processor(config.vision.path)
    dataset = ImageCaptionDataset(config, tokenizer, processor, "train")
    assert [line.partition(":")[0] for line in dataset.unusable] == ["0/3"]
    assert lengths.too_long(fair.examine()).examples[0].startswith("conversation 0/3: ")


def test_a_tokenizer_that_cannot_be_loaded_leaves_the_other_checks(fair, tmp_path):
    fair.ask("0.png", "Describe the picture.", "a small red circle at the top left and " * 70)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CannotCheck, match="no readable tokenizer"):
        lengths.too_long(fair.examine(f"language.path={tmp_path / 'empty'}"))
