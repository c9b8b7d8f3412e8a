"""What a changed key means on --resume: applied or refused by name, and every key of the schema has its rule."""

from __future__ import annotations

import pytest

from common.errors import UserError
from settings import Config, save_config
from training.resume import RESUME_RULES, check_changes, rule_of


@pytest.fixture
def checkpoint(make_config, tmp_path):
    """The folder of a checkpoint, with the config of :func:`make_config` as it is."""

    def write(*overrides: str):
        folder = tmp_path / "checkpoint-4"
        folder.mkdir(exist_ok=True)
        save_config(make_config(*overrides), folder / "config.yaml")
        return folder

    return write


def keys() -> list[str]:
    """``section.key`` of each section, and ``model``, which has no section."""
    found = []
    for name, field in Config.model_fields.items():
        section = isinstance(field.annotation, type)
        found += [f"{name}.{key}" for key in field.annotation.model_fields] if section else [name]
    return found


def test_every_key_has_a_rule_and_every_rule_a_key():
    used = {rule_of(key) for key in keys()}
    assert used == set(RESUME_RULES)


def test_an_unchanged_config_has_no_changes(make_config, checkpoint):
    assert check_changes(make_config(), checkpoint()) == []


def test_keys_that_apply_are_listed_with_both_values(make_config, checkpoint):
    changes = ["train.learning_rate=1e-4", "train.max_steps=null", "language.learning_rate=0.1", "train.bf16=true"]
    assert check_changes(make_config(*changes), checkpoint()) == [
        "language.learning_rate: null -> 0.1",
        "train.max_steps: 4 -> null",
        "train.learning_rate: 0.01 -> 0.0001",
        "train.bf16: false -> true",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("lora.r=16", "lora.r = 16, .* was trained with 4, and the checkpoint's adapters have another shape"),
        ("lora.lora_alpha=32", "lora.lora_alpha = 32, .* with 8, and it would rescale the trained adapters"),
        ("language.train=full", "language.train = full, .* with lora, and other weights would be trained"),
        ("vision.train=full", "vision.train = full, .* with frozen, and other weights would be trained"),
        ("projector.hidden_size=99", "projector.hidden_size = 99, .* with null, and the checkpoint's projector"),
        ("train.optim=adamw_8bit", "train.optim = adamw_8bit, .* with adamw_torch.*, and the moments of one"),
        ("vision.layer=-2", "vision.layer = -2, .* with -1, and the weights of the checkpoint were trained on other"),
    ],
)
def test_keys_that_do_not_apply_are_refused_by_name_with_the_reason(make_config, checkpoint, change, reason):
    with pytest.raises(
        UserError, match=f"^--resume: {reason}.*; set it back, or start another run with train.run=NAME"
    ):
        check_changes(make_config(change), checkpoint())


def test_optimisers_that_keep_the_same_states_may_follow_each_other(make_config, checkpoint):
    folder = checkpoint("train.optim=adamw_torch")
    assert check_changes(make_config("train.optim=adamw_torch_fused"), folder) == []


def test_lora_keys_do_not_matter_where_nothing_has_adapters(make_config, checkpoint):
    assert check_changes(make_config("language.train=full", "lora.r=16"), checkpoint("language.train=full")) == []


def test_with_a_stream_what_decides_on_its_batches_is_fixed(make_config, checkpoint):
    stream = ["data.stream=x.tar", "train.max_steps=4"]
    changed = make_config(*stream, "train.per_device_train_batch_size=4")
    with pytest.raises(UserError, match="per_device_train_batch_size = 4, .* with 2, and the position in the shards"):
        check_changes(changed, checkpoint(*stream))
    with pytest.raises(UserError, match="was trained with data.stream; set it as it was"):
        check_changes(make_config(), checkpoint(*stream))
