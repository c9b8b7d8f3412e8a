"""The model card says what the export was made from and how to use it."""

from __future__ import annotations

import json

import pytest
import yaml

from answering.exporting.card import Facts, model_card, read_result
from answering.exporting.formats import Options
from common.errors import UserError
from tests.helpers.results import line, result, wrong

BASES = {
    "vision.path": {"path": "google/siglip-so400m-patch14-384", "sha256": "ab" * 32},
    "language.path": {"path": "Qwen/Qwen3-1.7B", "sha256": "cd" * 32},
}


def card(config, norm=None, result=None) -> str:
    return model_card(Facts(Options("hf", "bf16", norm), config, {"base_models": BASES}, ["12 of 12"], result))


def test_the_card_names_bases_data_scores_and_commands(make_config, tmp_path):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result([*(line(number) for number in range(9)), wrong(9)])), encoding="utf-8")
    written = read_result(file)  # what evaluate.py writes, not a form of our own
    text = card(make_config(), result=written)
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == ["google/siglip-so400m-patch14-384", "Qwen/Qwen3-1.7B"]
    assert head["library_name"] == "transformers" and "abababababababab" in text and "trained on: none;" in text
    assert "| 10 questions | |" in text and "| score | 0.900 |" in text and "| no picture | 0.300 |" in text
    assert written["verdict"] in text and "- 12 of 12" in text
    for command in ("transformers serve", "vllm serve MODEL\n", "sglang", "lmms_eval", "hf upload", "pipeline("):
        assert command in text
    assert "<|im_end|>" in text


def test_a_card_of_a_tied_export_says_what_vllm_needs(make_config):
    text = card(make_config(), norm="tie")
    assert "vllm serve MODEL --model-impl transformers\n" in text and "answer from other features" in text


@pytest.mark.parametrize(
    ("form", "dtype", "commands"),
    [
        ("gguf", "f16", ("llama-server -m model-f16.gguf --mmproj mmproj-f16.gguf --jinja", "ollama create", "Q4_K_M")),
        ("onnx", "int8", ("python answer.py", "pip install onnxruntime")),
    ],
)
def test_each_format_has_its_own_commands(make_config, form, dtype, commands):
    text = model_card(Facts(Options(form, dtype), make_config(), {"base_models": BASES}, ["exact"]))
    assert f"library_name: {json.dumps(form)}" in text and "transformers serve" not in text
    for command in commands:
        assert command in text


def test_a_result_that_evaluate_did_not_write_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(UserError, match="--result = .*result.json: expected a file that evaluate.py wrote"):
        read_result(tmp_path / "result.json")
