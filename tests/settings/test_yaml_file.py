"""Reading, overriding and saving a config."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import UserError
from settings import Lora, Train, load_config, save_config
from settings.yaml_file import read_yaml
from tests.helpers.configs import MINIMAL, error_of, error_of_text
from tests.helpers.tiny import REPO


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("+2e+1", 20.0), ("3", 3), ("010", 10)],
)
def test_numbers_are_read_as_people_write_them(minimal, written, read):
    options = ["train.lr_scheduler_type=cosine", f"train.lr_scheduler_kwargs.num_cycles={written}"]
    value = load_config(minimal, options).train.lr_scheduler_kwargs["num_cycles"]
    assert value == read
    assert type(value) is type(read)


def test_underscores_between_thousands_are_allowed_and_elsewhere_text(minimal):
    assert load_config(minimal, ["data.max_pixels=50_000_000"]).data.max_pixels == 50_000_000
    assert load_config(minimal, ["train.run=2024_01"]).train.run == "2024_01"


def test_no_and_off_are_words_and_only_true_and_false_are_booleans(minimal):
    assert load_config(minimal, ["train.eval_strategy=no"]).train.eval_strategy == "no"
    assert load_config(minimal, ["train.run=2024-01-01"]).train.run == "2024-01-01"
    assert load_config(minimal, ["train.bf16=True"]).train.bf16 is True
    assert error_of(minimal, "train.bf16=on") == 'command line: train.bf16 = "on": expected true or false'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("vision:\n  path: a/b\n  train: frozen\n  path: c/d\n", ["line 4", "duplicate key path"]),
        ("data: {seed: 1, seed: 2}\n", ["line 1", "duplicate key seed"]),
        ("vision:\n\tpath: a\n", ["line 2", r"'\t'"]),
        ("data: [1, 2\nvision: 3\n", ["line 2", "not valid YAML"]),
        ("a: 1\n---\nb: 2\n", ["line 2", "not valid YAML"]),
        ("data:\n  1: x\n", ["line 2", "a key must be text"]),
        ("data:\n  ? [a]\n  : x\n", ["line 2", "a key must be text"]),
        ("a: b\nc: \x01\n", ["line 2", "U+0001"]),
        ("a: !!python/name:os.system x\n", ["line 1", "tag"]),
        ("a: !!bool maybe\n", ["not valid YAML", "maybe"]),
        ("", ["the file is empty", "data, vision, language"]),
        ("# nothing but a comment\n", ["the file is empty"]),
        ("- data\n- vision\n", ["not a list", "data, vision, language"]),
        ("just words\n", ["not a str"]),
        (b"data: \xff\xfe\n", ["not UTF-8 text (byte 6)"]),
        (MINIMAL.encode("utf-16"), ["not UTF-8 text"]),
        ("data: &a [*a]\n", ["contains itself"]),
        ("data: " + "[" * 5000, ["nested too deeply"]),
        ("data: " + "1" * 5000, ["not valid YAML"]),
    ],
)
def test_a_file_that_is_no_config_is_one_line_with_its_name_and_line_number(tmp_path, text, named):
    path = tmp_path / "my.yaml"
    message = error_of_text(path, text)
    assert message.startswith(f"{path}: ")
    assert [part for part in named if part not in message] == [], message


def test_merged_keys_are_no_duplicates(minimal):
    text = MINIMAL.replace("lora:\n  r: 8\n", "lora: &small\n  r: 8\n  lora_dropout: 0\n")
    minimal.write_text(text.replace("train:\n", "generate:\n  <<: {batch_size: 2}\n  batch_size: 4\ntrain:\n"), "utf-8")
    assert load_config(minimal).generate.batch_size == 4


def test_a_missing_file_names_the_nearest_one(minimal):
    message = error_of(minimal.with_name("confg.yaml"))
    assert "confg.yaml: no such file" in message
    assert message.endswith(f"nearest existing path: {minimal.as_posix()}")
    assert "cannot be read" in error_of(minimal.parent)


def test_a_byte_order_mark_is_ignored(minimal):
    minimal.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode("utf-8"))
    assert load_config(minimal).vision.path == "google/siglip-so400m-patch14-384"


def test_overrides_change_values_at_any_depth_and_the_last_one_wins(minimal):
    overrides = [
        "train.learning_rate=1e-5",
        "train.learning_rate=2e-5",
        "data.sources.0.images=[x, y]",
        "data.sources.1.annotations.1=z=1.json",
        "generate.batch_size=3",  # a section that the file does not have
        "vision.path=",
    ]
    config = load_config(minimal, [*overrides[:-1], "vision.path=organisation/name"])
    assert config.train.learning_rate == 2e-5
    assert config.data.sources[0].images == [Path("x"), Path("y")]
    assert config.data.sources[1].annotations == [Path("raw/b.json"), Path("z=1.json")]
    assert config.generate.batch_size == 3
    assert config.vision.path == "organisation/name"
    assert error_of(minimal, *overrides).startswith("command line: vision.path = null: expected ")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.seed", "expected KEY=VALUE"),
        ("=5", "expected KEY=VALUE"),
        ("train..seed=5", "expected KEY=VALUE"),
        ("data.sources.2.images=x", "data.sources is a list of 2; expected an index from 0"),
        ("data.sources.photos.images=x", "data.sources is a list of 2; expected an index from 0"),
        ("vision.path.x=5", 'vision.path is "google/siglip-so400m-patch14-384", which has no keys'),
        ("data.seed=[1", "line 1: not valid YAML"),
        ("data.seed={a: 1, a: 2}", "duplicate key a"),
        ("data.image_map=@x", "not valid YAML"),
    ],
)
def test_an_override_that_cannot_be_applied_is_quoted_with_the_problem(minimal, override, problem):
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {override}: ")
    assert problem in message


def test_a_saved_config_reads_back_equal(minimal, tmp_path):
    awkward = [
        "language.system='1e-4'",
        "train.run=no",
        "lora.target_modules=['1_000', 'null', '2024-01-01', '<<', '.5', '~', '010', 'yes']",
        "train.learning_rate=1e-7",
        "train.weight_decay=0",
        "data.validation=名单.txt",
        "projector.learning_rate=1e-3",
    ]
    config = load_config(minimal, awkward)
    saved = tmp_path / "checkpoints" / "run" / "config.yaml"
    save_config(config, saved)
    again = load_config(saved)
    assert again == config
    assert again.language.system == "1e-4"
    assert again.lora.target_modules[4] == ".5"
    assert "名单.txt" in saved.read_text(encoding="utf-8")
    assert os.listdir(saved.parent) == ["config.yaml"]


def test_a_saved_config_has_the_sections_and_keys_of_a_written_one(minimal, tmp_path):
    save_config(load_config(minimal, ["train.seed=3"]), tmp_path / "saved.yaml")
    content = read_yaml(tmp_path / "saved.yaml")
    assert list(content) == [
        "model",
        "data",
        "vision",
        "language",
        "projector",
        "lora",
        "train",
        "generate",
        "baselines",
    ]
    assert list(content["train"]) == list(Train.model_fields)
    assert content["train"] == {**Train(learning_rate=1e-4, seed=3).model_dump(), "output": "checkpoints"}


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml"])
def test_the_configs_of_the_repository_are_equal_after_saving(monkeypatch, tmp_path, name):
    monkeypatch.chdir(REPO)
    config = load_config(name)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_a_failed_save_leaves_the_old_file(minimal, tmp_path, monkeypatch):
    saved = tmp_path / "saved.yaml"
    saved.write_text("old", encoding="utf-8")

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        save_config(load_config(minimal), saved)
    assert saved.read_text(encoding="utf-8") == "old"


def test_a_config_saved_on_another_machine_loads_without_its_models_and_data(minimal):
    overrides = ["vision.path=./gone/siglip", "language.path=/gone/qwen/"]
    assert "vision.path" in error_of(minimal, *overrides)
    config = load_config(minimal, overrides, check_models=False)
    assert (config.vision.path, config.language.path) == ("./gone/siglip", "/gone/qwen/")


OLD_KEYS = {
    "lora": "  layer_replication: null\n  loftq_config: {}\n  fan_in_fan_out: false\n  use_qalora: true\n"
    "  velora_config: null\n",
    "train": "  optim: adafactor\n  fp16: true\n  fsdp_config: {version: 2}\n  disable_tqdm: true\n  save_steps: 0.1\n"
    "  max_steps: -1\n  report_to: [mlflow]\n  eval_steps: 300\n  lr_scheduler_type: cosine_with_restarts\n"
    "  lr_scheduler_kwargs: {num_cycles: 3}\n  load_best_model_at_end: true\n  eval_strategy: steps\n",
}


def test_a_checkpoints_config_of_an_earlier_version_loads_without_the_keys_that_are_gone(minimal, capsys, caplog):
    text = MINIMAL.replace("lora:\n", f"lora:\n{OLD_KEYS['lora']}").replace("train:\n", f"train:\n{OLD_KEYS['train']}")
    minimal.write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        load_config(minimal)
    config = load_config(minimal, ["generate.batch_size=3"], check_models=False)
    assert config.lora == Lora(r=8)
    kept = {"eval_steps": 300, "lr_scheduler_kwargs": {"num_cycles": 3}, "load_best_model_at_end": True}
    assert config.train == Train(learning_rate=1e-4, eval_strategy="steps", **kept)
    assert config.generate.batch_size == 3
    assert capsys.readouterr() == ("", "") and not caplog.records
    with pytest.raises(UserError, match="command line: train.optim"):  # what is typed now is checked as always
        load_config(minimal, ["train.optim=adafactor"], check_models=False)


def test_the_split_held_out_of_a_checkpoint_is_validation(minimal):
    text = MINIMAL.replace("data:\n", "data:\n  held_out: names.txt\n  stream_held_out: null\n")
    minimal.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="data.held_out"):
        load_config(minimal)
    data = load_config(minimal, check_models=False).data
    assert (data.validation, data.test, data.stream_validation) == (Path("names.txt"), 0.0, None)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("alora_invocation_tokens: [1, 2]", "lora.alora_invocation_tokens = [1, 2]: not supported"),
        ("layer_replication: [[0, 1]]", "lora.layer_replication = [[0, 1]]: not supported"),
        ("velora_config: {num_groups: 2}", 'lora.velora_config = {"num_groups": 2}: not supported'),
        ("r: 0", "lora.r = 0: expected a whole number"),
    ],
)
def test_a_checkpoint_is_refused_where_a_lost_key_would_change_its_answers(minimal, line, shown):
    minimal.write_text(MINIMAL.replace("  r: 8", f"  {line}"), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(minimal, check_models=False)
    assert shown in str(caught.value)
