"""The model card says what the export was made from and how to use it."""

from __future__ import annotations

import pytest
import yaml

from answering.exporting.card import Facts, model_card, read_result
from answering.exporting.formats import Options
from common.errors import UserError

BASES = {
    "vision.path": {"path": "google/siglip-so400m-patch14-384", "sha256": "ab" * 32},
    "language.path": {"path": "Qwen/Qwen3-1.7B", "sha256": "cd" * 32},
}


def card(config, norm=None, result=None) -> str:
    return model_card(Facts("hf", Options("bf16", norm), config, {"base_models": BASES}, ["12 of 12"], result))


def test_the_card_names_bases_data_scores_and_commands(make_config):
    result = {"overall": {"n": 10, "exact_match": 0.9, "no_picture": 0.25}}
    text = card(make_config(), result=result)
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == ["google/siglip-so400m-patch14-384", "Qwen/Qwen3-1.7B"]
    assert head["library_name"] == "transformers" and "abababababababab" in text and "trained on: none;" in text
    assert "| exact match | 0.900 |" in text and "| no picture | 0.250 |" in text and "- 12 of 12" in text
    for command in ("transformers serve", "vllm serve MODEL\n", "sglang", "lmms_eval", "hf upload", "pipeline("):
        assert command in text
    assert "<|im_end|>" in text


def test_a_card_of_a_tied_export_says_what_vllm_needs(make_config):
    text = card(make_config(), norm="tie")
    assert "vllm serve MODEL --model-impl transformers\n" in text and "answer from other features" in text


def test_a_result_that_evaluate_did_not_write_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(UserError, match="--result = .*result.json: expected a file that evaluate.py wrote"):
        read_result(tmp_path / "result.json")
