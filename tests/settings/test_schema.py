"""The sections of a config: defaults, types and ranges."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from settings import Config, Lora, Train, load_config
from settings.schema import SCHEDULE_OPTIONS
from tests.helpers.configs import MINIMAL, encoder_folder, error_of, error_of_text
from tests.helpers.tiny import REPO


@pytest.mark.parametrize(("name", "tokens", "sources"), [("config.yaml", 728, 2), ("demo.yaml", 63, 2)])
def test_both_configs_of_the_repository_are_valid(monkeypatch, name, tokens, sources):
    monkeypatch.chdir(REPO)
    config = load_config(name)
    assert config.vision.image_context_length == tokens
    assert len(config.data.sources) == sources
    assert config.train.lr_scheduler_type == "cosine"


def test_lora_has_the_fields_types_and_defaults_of_peft():
    """Fails when peft renames a field or changes a default; checking a config never imports peft."""
    from model.plain_peft import LoraConfig

    theirs = LoraConfig()
    for name, value in Lora().model_dump().items():
        expected = {"target_modules": "all-linear"}.get(name, getattr(theirs, name))
        assert value == expected and type(value) is type(expected), name
    assert LoraConfig(**Lora(r=4, init_lora_weights="pissa_niter_4").model_dump()).init_lora_weights == "pissa_niter_4"


# Different on purpose: one epoch, an early first log, and one batch size for training and evaluation.
OTHER_DEFAULTS = {"num_train_epochs": 1.0, "logging_steps": 10, "per_device_eval_batch_size": None, "max_steps": None}


# Off by default in both; TrainingArguments writes it differently.
OTHER_SPELLINGS = {"gradient_checkpointing": None, "lr_scheduler_kwargs": None, "report_to": "none", "fsdp": None}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_train_has_names_and_defaults_of_training_arguments():
    from transformers import TrainingArguments

    theirs = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    ours = {"run", "output", "max_nonfinite_steps", "early_stopping_patience", "eval_questions"}
    ours |= {"losses", "start_from", "start_from_adapters"}
    assert {name for name in Train.model_fields if name not in theirs} == ours
    for name, value in Train().model_dump(exclude=ours).items():
        if name in OTHER_SPELLINGS:
            assert not value and theirs[name] in (OTHER_SPELLINGS[name], dataclasses.MISSING), name
        else:
            assert value == OTHER_DEFAULTS.get(name, theirs[name]), name


def test_null_means_the_value_of_another_key(minimal):
    train = load_config(minimal, ["train.per_device_train_batch_size=3", "train.save_steps=7"]).train
    assert (train.eval_batch_size, train.steps_per_eval) == (3, 7)
    train = load_config(minimal, ["train.per_device_eval_batch_size=5", "train.eval_steps=9"]).train
    assert (train.eval_batch_size, train.steps_per_eval) == (5, 9)


def test_config_yaml_explains_every_key():
    text = (REPO / "config.yaml").read_text(encoding="utf-8")
    assert re.search("^model: null$", text, re.M)
    for name, field in Config.model_fields.items():
        if name == "model":  # the one key without a section
            continue
        section = re.search(rf"^{name}:\n(.*?)(?=^\w|\Z)", text, re.M | re.S)[1]
        for key in field.annotation.model_fields:
            assert re.search(rf"^  {key}:|^ +#.*\b{key}\b", section, re.M), f"{name}.{key}"


def test_missing_keys_take_their_defaults(minimal):
    config = load_config(minimal)
    data = config.data
    assert (data.seed, data.max_skipped, data.validation, data.test, data.workers) == (0, 0.05, 0.02, 0.02, None)
    assert (config.vision.train, config.vision.drop_first_token, config.vision.image_context_length) == (
        "frozen",
        True,
        728,
    )
    assert (config.language.train, config.language.max_length) == ("lora", 2048)
    assert (config.projector.hidden_size, config.projector.learning_rate) == (None, None)
    assert (config.vision.learning_rate, config.language.learning_rate) == (None, None)
    assert config.lora == Lora(r=8) and config.lora.target_modules == "all-linear"
    assert (config.train.run, config.train.output) == ("run", Path("checkpoints"))
    assert config.train == Train(learning_rate=1e-4)
    assert (config.generate.max_new_tokens, config.generate.do_sample, config.generate.batch_size) == (256, False, 8)


def test_one_path_and_a_list_of_paths_both_become_a_list(minimal):
    one, several = load_config(minimal).data.sources
    assert (one.annotations, one.images, one.language) == ([Path("raw/a.json")], [Path("raw/images")], "auto")
    assert several.annotations == [Path("raw/b.json"), Path("raw/c.json")]
    assert several.images == [Path("raw/d1"), Path("raw/d2")]


def test_a_split_is_a_share_or_a_file(minimal):
    data = load_config(minimal, ["data.validation=0", "data.test=raw/names.txt"]).data
    assert (data.validation, data.test) == (0.0, Path("raw/names.txt"))


def test_a_section_with_every_key_commented_out_is_all_defaults(minimal):
    minimal.write_text(MINIMAL + "projector:\n  # learning_rate: 1e-3\n", encoding="utf-8")
    assert load_config(minimal).projector.learning_rate is None


def test_a_home_folder_is_expanded(minimal, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    encoder_folder(tmp_path / "tower", image_size=384, patch_size=14)
    config = load_config(minimal, ["vision.path=~/tower", "train.output=~/runs"])
    assert Path(config.vision.path) == tmp_path / "tower"
    assert config.train.output == tmp_path / "runs"


WRONG_VALUES = [
    # override, value as shown, expected
    ("data.seed=true", "true", "a whole number, 0 or more"),
    ("data.seed=1.0", "1.0", "a whole number"),
    ("data.seed=-1", "-1", "0 or more"),
    ('data.seed="1"', '"1"', "a whole number"),
    ("data.progress=1", "1", "true or false"),
    ("data.progress=yes", '"yes"', "true or false"),
    ("data.max_skipped=1.01", "1.01", "a share from 0 to 1"),
    ("data.max_skipped=.nan", "NaN", "a finite number"),
    ("data.validation=1", "1", "from 0 to below 1"),
    ("data.test=true", "true", "from 0 to below 1"),
    ('data.test=""', '""', "the path of a text file"),
    ("data.workers=0", "0", "or null for all cores"),
    ("data.max_pixels=0", "0", "1 or more"),
    ("data.images_per_conversation=0", "0", "1 or more"),
    ("data.image_map=5", "5", "the path of a JSON file"),
    ("data.image_map=", "null", "the path of a JSON file"),
    ('data.image_map="a\\0b"', '"a\\u0000b"', "the path of a JSON file"),
    ("data.sources=[]", "[]", "a list of sections"),
    ("data.sources={a: 1}", '{"a": 1}', "a list of sections"),
    ("data.sources.0=x", '"x"', "a list of sections"),
    ("data.sources.0.format=[]", "[]", "the name of a format, or auto to find it by looking at the files"),
    ("data.sources.0.language=fr", '"fr"', "en, zh or auto"),
    ("data.sources.0.images=[]", "[]", "the path of a folder"),
    ("data.sources.0.images=7", "7", "the path of a folder"),
    ("vision.train=LoRA", '"LoRA"', "frozen, lora, last_blocks or full"),
    ("vision.path=5", "5", "a hub name such as google/"),
    ("vision.path=two words", '"two words"', "a hub name such as google/"),
    ("vision.drop_first_token=0", "0", "true or false"),
    ("vision.image_context_length=0", "0", "1 or more"),
    ("language.system=Say: hello", '{"Say": "hello"}', "text (in quotes)"),
    ('language.system="\\ud800"', '"\\ud800"', "text without lone surrogates"),
    ("language.max_length=728", "728", "more than vision.image_context_length (728)"),
    ("projector.hidden_size=-5", "-5", "or null for the language model's"),
    ("projector.learning_rate=0", "0", "a number above 0"),
    ("projector=5", "5", "a section"),
    ("lora=5", "5", "a section"),
    ("lora.r=true", "true", "a whole number"),
    ("lora.r=0", "0", "1 or more"),
    ("lora.lora_dropout=1", "1", "from 0 to below 1"),
    ("lora.target_modules=5", "5", "a list"),
    ("lora.bias=some", '"some"', "one of none, all, lora_only"),
    ("lora.init_lora_weights=pissa_niter_x", '"pissa_niter_x"', "one of gaussian"),
    ("train=fast", '"fast"', "a section"),
    ("train.run=5", "5", "the name of a folder, as text (in quotes)"),
    ("train.run=a/b", '"a/b"', "the name of a folder"),
    ("train.run=..", '".."', "the name of a folder"),
    ("train.output=[a]", '["a"]', "the path of a folder"),
    ("train.seed=true", "true", "a whole number"),
    ("train.seed=-1", "-1", "from 0 to"),
    ("train.bf16=1", "1", "true or false"),
    ('train.learning_rate="1e-4"', '"1e-4"', "a number"),
    ("train.learning_rate=true", "true", "a number"),
    ("train.learning_rate=-1e-4", "-0.0001", "a number above 0"),
    ("train.learning_rate=1e999", "Infinity", "a finite number"),
    ("train.max_steps=0", "0", "or null to go by train.num_train_epochs"),
    ("train.max_steps=-2", "-2", "or null to go by train.num_train_epochs"),
    ("train.max_steps=5.5", "5.5", "a whole number"),
    ("train.per_device_train_batch_size=0", "0", "1 or more"),
    ("train.dataloader_num_workers=-1", "-1", "0 or more"),
    ("train.dataloader_persistent_workers=true", "true", "false where train.dataloader_num_workers is 0"),
    ("train.eval_strategy=epochs", '"epochs"', "one of no, steps, epoch; nearest: epoch"),
    ("train.lr_scheduler_type=cosin", '"cosin"', "nearest: cosine"),
    ("train.optim=adamw_torhc", '"adamw_torhc"', "nearest: adamw_torch"),
    ("train.optim=schedule_free_adamw", '"schedule_free_adamw"', "one of adamw_torch, adamw_torch_fused, adamw_8bit"),
    ("train.adam_epsilon=-1", "-1", "a number above 0"),
    ("train.adam_beta1=1", "1", "from 0 to below 1"),
    ("train.fsdp=full_shard", '"full_shard"', "true or false"),
    ("train.save_steps=0.1", "0.1", "a whole number, 1 or more"),
    ("train.dataloader_prefetch_factor=4", "4", "null where train.dataloader_num_workers is 0"),
    ("train.early_stopping_patience=0", "0", "or null for never"),
    ("train.early_stopping_patience=2", "2", "null where train.eval_strategy is no"),
    ("train.load_best_model_at_end=true", "true", "false where train.eval_strategy is no"),
    ("vision.learning_rate=0.1", "0.1", "null where vision.train is frozen"),
    ("lora.init_lora_weights=eva", '"eva"', "one of gaussian, orthogonal, olora, pissa"),
    ("lora.rank_pattern={q_proj: 0}", "0", "a section (module name: rank)"),
    ("generate.temperature=0", "0", "a number above 0"),
    ("generate.top_p=1.5", "1.5", "at most 1"),
    ("generate.do_sample=no", '"no"', "true or false"),
]


@pytest.mark.parametrize(("override", "shown", "expected"), WRONG_VALUES, ids=[case[0] for case in WRONG_VALUES])
def test_a_wrong_value_is_one_line_with_key_value_and_what_was_expected(minimal, override, shown, expected):
    key = override.partition("=")[0]
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {key} = {shown}: expected "), message
    assert expected in message


def test_a_value_of_many_lines_is_still_one_line_and_cut(minimal):
    message = error_of_text(minimal, MINIMAL + "generate: |\n" + "  line\n" * 100)
    assert 'generate = "line\\nline' in message
    assert len(message) < 300 + len(str(minimal))


def test_values_keep_their_type_and_null_is_accepted_where_it_has_a_meaning(minimal):
    overrides = [
        "train.warmup_steps=0.03",
        "train.lr_scheduler_type=cosine",
        "train.lr_scheduler_kwargs.num_cycles=2",  # a section that the file does not have
        "train.report_to=[tensorboard]",
        "train.eval_steps=null",
        "train.max_steps=-1",
        "lora.target_modules=[q_proj, v_proj]",
        "lora.init_lora_weights=pissa_niter_16",
        "lora.rank_pattern={q_proj: 4}",
        "lora.alpha_pattern=null",
        "lora.layers_to_transform=[0, 1]",
        "lora.layers_pattern=layers",
    ]
    config = load_config(minimal, overrides)
    assert config.train.model_dump(exclude_defaults=True) == {
        "learning_rate": 1e-4,
        "warmup_steps": 0.03,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "report_to": ["tensorboard"],
    }
    assert (config.train.eval_steps, config.train.max_steps) == (None, None)
    assert config.lora.model_dump(exclude_defaults=True) == {
        "target_modules": ["q_proj", "v_proj"],
        "init_lora_weights": "pissa_niter_16",
        "rank_pattern": {"q_proj": 4},
        "layers_to_transform": [0, 1],
        "layers_pattern": "layers",
    }


def test_the_options_of_a_schedule_are_those_of_transformers():
    """Fails when transformers renames a schedule or changes its options."""
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    functions = {kind.value: function for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    ours = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    for kind, options in SCHEDULE_OPTIONS.items():
        assert set(inspect.signature(functions[kind]).parameters) - ours == options


@pytest.mark.parametrize(
    ("written", "read"), [("tensorboard", ["tensorboard"]), ("none", []), ("", []), ("[]", []), ("[wandb]", ["wandb"])]
)
def test_trackers_are_one_name_a_list_or_none(minimal, written, read):
    assert load_config(minimal, [f"train.report_to={written}"]).train.report_to == read


def test_a_config_can_be_made_in_code():
    source = {"name": "a", "format": "coco", "annotations": "a.json", "images": "images"}
    data = {"sources": [source], "image_map": "m.json", "annotations": "n.json", "skipped": "s.json"}
    config = Config(data=data, vision={"path": "a/b"}, language={"path": "c/d"}, train={"seed": 1})
    assert config.data.sources[0].annotations == [Path("a.json")]
    assert config.lora == Lora() and config.train.seed == 1
