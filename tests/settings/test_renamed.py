"""Keys that do not exist: one line says what to write instead, or why there is no such key."""

from __future__ import annotations

import dataclasses

import pytest

from settings import Lora, Train
from settings.renamed import REFUSED
from tests.helpers.configs import error_of


def test_every_other_field_of_training_arguments_and_lora_config_has_a_reason():
    from transformers import TrainingArguments

    from model.plain_peft import LoraConfig

    for section, theirs in ((Train, TrainingArguments), (Lora, LoraConfig)):
        prefix = section.__name__.lower()
        names = {field.name for field in dataclasses.fields(theirs) if field.init}
        assert {f"{prefix}.{name}" for name in names - section.model_fields.keys()} == {
            key for key in REFUSED if key.startswith(f"{prefix}.")
        }


def test_the_one_split_of_earlier_versions_is_refused_with_the_two_that_replace_it(minimal):
    message = error_of(minimal, "data.held_out=0.02")
    assert message.startswith("command line: data.held_out = 0.02: unknown key")
    assert "data.validation (checkpoints are chosen on it) and data.test (evaluate.py scores it)" in message
    message = error_of(minimal, "data.stream_held_out=a.tar")
    assert message.endswith("nearest valid key: data.stream_validation")


@pytest.mark.parametrize(
    ("override", "where_to"),
    [
        ("train.output_dir=x", "train.output and train.run"),
        ("train.remove_unused_columns=false", "not set here"),
        ("train.label_names=[labels]", "not set here"),
        ("train.resume_from_checkpoint=x", "--resume"),
        ("train.label_smoothing_factor=0.1", "cross entropy"),
        ("train.neftune_noise_alpha=5", "cross entropy"),
        ("train.metric_for_best_model=accuracy", "lowest validation loss"),
        ("train.activation_checkpointing=true", "train.gradient_checkpointing"),
        ("train.gradient_checkpointing_kwargs={use_reentrant: true}", "train.gradient_checkpointing"),
        ("train.dataloader_drop_last=true", "every sample"),
        ("train.auto_find_batch_size=true", "says what to lower"),
        ("train.push_to_hub=true", "nothing is uploaded"),
        ("train.deepspeed=zero3.json", "train.fsdp"),
        ("lora.task_type=CAUSAL_LM", "always CAUSAL_LM"),
        ("lora.inference_mode=true", "not set here"),
        ("lora.base_model_name_or_path=x", "language.path"),
        ("lora.eva_config={rho: 2.0}", "computed from data"),
        ("lora.layer_replication=[[0,2],[1,2]]", "leave it out"),
        ("train.fsdp_config={version: 1}", "train.fsdp and configs/accelerate/fsdp.yaml"),
        ("train.fp16=true", "train.bf16"),
        ("train.disable_tqdm=true", "data.progress=false"),
        ("train.logging_strategy=steps", "train.logging_steps"),
        ("train.optim_args=x", "train.adam_beta1"),
        ("train.ddp_timeout=60", "docs/scaling.md"),
    ],
)
def test_fields_that_are_no_keys_are_refused_with_the_reason(minimal, override, where_to):
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {override.partition('=')[0]} = ")
    assert where_to in message


def test_a_secret_is_refused_and_not_repeated(minimal):
    message = error_of(minimal, "train.hub_token=hf_secret")
    assert "HF_TOKEN" in message
    assert "hf_secret" not in message
