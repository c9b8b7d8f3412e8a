"""The config: whatever is wrong with it is one line that names the key; whatever is right survives a round trip."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from settings import Config, add_config_arguments, load_config, require_paths, save_config

REPO = Path(__file__).resolve().parent.parent.parent

MINIMAL = """\
data:
  sources:
    - {name: photos, format: coco, annotations: raw/a.json, images: raw/images}
    - {name: bilder, format: ali, annotations: [raw/b.json, raw/c.json], images: [raw/d1, raw/d2], language: zh}
  image_map: out/image_map.json
  annotations: out/annotations.json
  skipped: out/skipped.json
vision:
  path: google/siglip-so400m-patch14-384
language:
  path: Qwen/Qwen2.5-1.5B-Instruct
lora:
  r: 8
train:
  learning_rate: 1e-4
"""


@pytest.fixture
def minimal(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def error_of(path, *overrides: str) -> str:
    """The message of the error that these overrides give; one line, always."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def error_of_text(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return error_of(path)


def encoder_folder(folder: Path, **config) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


# ---------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize(("name", "tokens", "sources"), [("config.yaml", 728, 2), ("demo.yaml", 63, 2)])
def test_both_configs_of_the_repository_are_valid(monkeypatch, name, tokens, sources):
    monkeypatch.chdir(REPO)
    config = load_config(name)
    assert config.vision.image_context_length == tokens
    assert len(config.data.sources) == sources
    assert config.train.arguments["lr_scheduler_type"] == "cosine"


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml"])
def test_both_configs_of_the_repository_make_training_arguments_and_a_lora_config(monkeypatch, tmp_path, name):
    from peft import LoraConfig
    from transformers import TrainingArguments

    monkeypatch.chdir(REPO)
    config = load_config(name, ["train.bf16=false"])
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **config.train.arguments)
    assert arguments.learning_rate == config.train.arguments["learning_rate"]
    assert LoraConfig(**config.lora).target_modules == "all-linear"


def test_what_is_left_out_takes_its_default(minimal):
    config = load_config(minimal)
    assert (config.data.seed, config.data.max_skipped, config.data.held_out, config.data.workers) == (
        0,
        0.05,
        0.02,
        None,
    )
    assert (config.vision.train, config.vision.drop_first_token, config.vision.image_context_length) == (
        "frozen",
        True,
        728,
    )
    assert (config.language.train, config.language.max_length) == ("lora", 2048)
    assert (config.projector.hidden_size, config.projector.learning_rate) == (None, None)
    assert config.lora == {"target_modules": "all-linear", "r": 8}
    assert (config.train.run, config.train.output) == ("run", Path("checkpoints"))
    assert config.train.arguments == {"learning_rate": 1e-4}
    assert (config.generate.max_new_tokens, config.generate.do_sample, config.generate.batch_size) == (256, False, 8)


def test_one_path_and_a_list_of_paths_both_become_a_list(minimal):
    one, several = load_config(minimal).data.sources
    assert (one.annotations, one.images, one.language) == ([Path("raw/a.json")], [Path("raw/images")], "auto")
    assert several.annotations == [Path("raw/b.json"), Path("raw/c.json")]
    assert several.images == [Path("raw/d1"), Path("raw/d2")]


def test_held_out_is_a_share_or_a_file(minimal):
    assert load_config(minimal, ["data.held_out=0"]).data.held_out == 0.0
    assert load_config(minimal, ["data.held_out=raw/names.txt"]).data.held_out == Path("raw/names.txt")


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


def test_a_byte_order_mark_is_no_part_of_the_first_key(minimal):
    minimal.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode("utf-8"))
    assert load_config(minimal).vision.path == "google/siglip-so400m-patch14-384"


# ---------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("+2e+1", 20.0), ("3", 3), ("010", 10)],
)
def test_numbers_are_read_as_people_write_them(minimal, written, read):
    value = load_config(minimal, [f"train.learning_rate={written}"]).train.arguments["learning_rate"]
    assert value == read
    assert type(value) is type(read)


def test_thousands_may_be_set_apart_but_other_underscores_are_text(minimal):
    assert load_config(minimal, ["data.max_pixels=50_000_000"]).data.max_pixels == 50_000_000
    assert load_config(minimal, ["train.run=2024_01"]).train.run == "2024_01"


def test_no_and_off_are_words_and_only_true_and_false_are_booleans(minimal):
    assert load_config(minimal, ["train.eval_strategy=no"]).train.arguments["eval_strategy"] == "no"
    assert load_config(minimal, ["train.run=2024-01-01"]).train.run == "2024-01-01"
    assert load_config(minimal, ["train.bf16=True"]).train.arguments["bf16"] is True
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
def test_a_file_that_is_no_config_is_a_line_with_its_name_and_place(tmp_path, text, named):
    path = tmp_path / "my.yaml"
    message = error_of_text(path, text)
    assert message.startswith(f"{path}: ")
    assert [part for part in named if part not in message] == [], message


def test_merged_keys_are_no_duplicates(minimal):
    text = MINIMAL.replace("lora:\n  r: 8\n", "lora: &small\n  r: 8\n  lora_dropout: 0\n")
    minimal.write_text(text.replace("train:\n", "generate:\n  <<: {batch_size: 2}\n  batch_size: 4\ntrain:\n"), "utf-8")
    assert load_config(minimal).generate.batch_size == 4


def test_a_missing_file_names_the_one_that_was_meant(minimal):
    message = error_of(minimal.with_name("confg.yaml"))
    assert "confg.yaml: no such file" in message
    assert message.endswith(f"nearest existing path: {minimal.as_posix()}")
    assert "cannot be read" in error_of(minimal.parent)


# ---------------------------------------------------------------------------------------------- wrong keys


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("visoin=1", "vision"),
        ("data.image_mpa=7", "data.image_map"),
        ("data.sources.1.imags=7", "data.sources.1.images"),
        ("vision.image_context_len=5", "vision.image_context_length"),
        ("generate.max_tokens=5", "generate.max_new_tokens"),
        ("train.learning_rat=1", "train.learning_rate"),
        ("data.sources.1.IMAGES=7", "data.sources.1.images"),
        ("lora.alpha=1", "lora.lora_alpha"),
        ("learning_rate=1", "train.learning_rate"),  # nothing like it at its level: found in another section
        ("image_map=7", "data.image_map"),
        ("train.image_context_length=1", "vision.image_context_length"),
        ("train.batch_size=3", "train.per_device_train_batch_size"),
        ("train.warmup_ratio=0.03", "train.warmup_steps (below 1 it is a share of all steps)"),
        ("train.evaluation_strategy=null", "train.eval_strategy"),
        ("train.group_by_length=true", "data.tokens_per_batch (batches are of like length anyway)"),
    ],
)
def test_an_unknown_key_is_named_with_its_value_and_the_nearest_valid_one(minimal, override, nearest):
    key, _, value = override.partition("=")
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {key} = {value}: unknown key, expected ")
    assert message.endswith(f"; nearest valid key: {nearest}")


def test_an_unknown_section_on_the_command_line_is_named_with_what_was_to_be_in_it(minimal):
    message = error_of(minimal, "Train.learning_rate=1")
    assert message.startswith('command line: Train = {"learning_rate": 1}: unknown key, expected one of data, vision')
    assert message.endswith("; nearest valid key: train")


def test_a_dotted_key_in_the_file_is_told_to_be_indented(minimal):
    message = error_of_text(minimal, MINIMAL + "train.seed: 5\n")
    assert message.endswith("nearest valid key: seed, indented under train:")


def test_an_error_says_whether_the_file_or_the_command_line_has_it(minimal):
    minimal.write_text(MINIMAL.replace("learning_rate", "learning_rte"), encoding="utf-8")
    message = error_of(minimal, "data.seed=5")
    assert message.startswith(f"{minimal}: train.learning_rte = 0.0001: unknown key, expected a field of TrainingArg")
    assert error_of(minimal, "data.sead=5").startswith("command line: data.sead = 5: ")
    assert error_of(minimal, "data.sources=[x]").startswith('command line: data.sources.0 = "x": ')


def test_a_misspelt_key_is_called_unknown_and_not_missing(minimal):
    message = error_of_text(minimal, MINIMAL.replace("image_map:", "image_mpa:"))
    assert message.startswith(f'{minimal}: data.image_mpa = "out/image_map.json": unknown key, expected ')
    assert message.endswith("; nearest valid key: data.image_map")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  image_map: out/image_map.json\n", "data.image_map: missing, expected the path of a JSON file"),
        ("  path: Qwen/Qwen2.5-1.5B-Instruct\n", "language.path: missing, expected a hub name"),
    ],
)
def test_a_missing_key_is_named(minimal, line, message):
    assert line in MINIMAL
    assert error_of_text(minimal, MINIMAL.replace(line, "")).startswith(f"{minimal}: {message}")


def test_a_missing_section_is_named(minimal):
    text = MINIMAL.replace("vision:\n  path: google/siglip-so400m-patch14-384\n", "")
    assert error_of_text(minimal, text) == f"{minimal}: vision: missing, expected a section with path"


@pytest.mark.parametrize(
    ("override", "where_to"),
    [
        ("train.output_dir=x", "train.output and train.run"),
        ("train.remove_unused_columns=false", "not set here"),
        ("train.label_names=[labels]", "not set here"),
        ("train.resume_from_checkpoint=x", "--resume"),
        ("train.label_smoothing_factor=0.1", "cross entropy"),
        ("train.neftune_noise_alpha=5", "cross entropy"),
        ("train.metric_for_best_model=accuracy", "lowest held-out loss"),
        ("train.activation_checkpointing=true", "train.gradient_checkpointing"),
        ("train.gradient_checkpointing_kwargs={use_reentrant: true}", "train.gradient_checkpointing"),
        ("train.dataloader_drop_last=true", "every sample"),
        ("train.auto_find_batch_size=true", "says what to lower"),
        ("train.push_to_hub=true", "nothing is uploaded"),
        ("train.deepspeed=zero3.json", "train.fsdp"),
        ("lora.task_type=CAUSAL_LM", "always CAUSAL_LM"),
        ("lora.inference_mode=true", "not set here"),
        ("lora.base_model_name_or_path=x", "language.path"),
        ("lora.eva_config={rho: 2.0}", "cannot be given in YAML"),
    ],
)
def test_fields_that_the_project_sets_itself_are_refused_with_the_reason(minimal, override, where_to):
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {override.partition('=')[0]} = ")
    assert where_to in message


def test_a_secret_is_refused_and_not_repeated(minimal):
    message = error_of(minimal, "train.hub_token=hf_secret")
    assert "HF_TOKEN" in message
    assert "hf_secret" not in message


# ---------------------------------------------------------------------------------------------- wrong values

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
    ("data.held_out=1", "1", "from 0 to below 1"),
    ("data.held_out=true", "true", "from 0 to below 1"),
    ('data.held_out=""', '""', "the path of a text file"),
    ("data.workers=0", "0", "or null for all cores"),
    ("data.max_pixels=0", "0", "1 or more"),
    ("data.images_per_conversation=0", "0", "1 or more"),
    ("data.image_map=5", "5", "the path of a JSON file"),
    ("data.image_map=", "null", "the path of a JSON file"),
    ('data.image_map="a\\0b"', '"a\\u0000b"', "the path of a JSON file"),
    ("data.sources=[]", "[]", "a list of sections"),
    ("data.sources={a: 1}", '{"a": 1}', "a list of sections"),
    ("data.sources.0=x", '"x"', "a list of sections"),
    ("data.sources.0.format=llava", '"llava"', "ali (AI Challenger) or coco (LLaVA conversations)"),
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
    ("train.max_steps=0", "0", "or -1"),
    ("train.max_steps=5.5", "5.5", "a whole number"),
    ("train.per_device_train_batch_size=0", "0", "1 or more"),
    ("train.dataloader_num_workers=-1", "-1", "0 or more"),
    ("train.dataloader_persistent_workers=true", "true", "false where train.dataloader_num_workers is 0"),
    ("train.eval_strategy=epochs", '"epochs"', "one of no, steps, epoch; nearest: epoch"),
    ("train.lr_scheduler_type=cosin", '"cosin"', "nearest: cosine"),
    ("train.optim=adamw_torhc", '"adamw_torhc"', "nearest: adamw_torch"),
    ("generate.temperature=0", "0", "a number above 0"),
    ("generate.top_p=1.5", "1.5", "at most 1"),
    ("generate.do_sample=no", '"no"', "true or false"),
]


@pytest.mark.parametrize(("override", "shown", "expected"), WRONG_VALUES, ids=[case[0] for case in WRONG_VALUES])
def test_a_wrong_value_is_a_line_with_key_value_and_what_was_expected(minimal, override, shown, expected):
    key = override.partition("=")[0]
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {key} = {shown}: expected "), message
    assert expected in message


def test_a_value_of_many_lines_is_still_one_line_and_cut(minimal):
    message = error_of_text(minimal, MINIMAL + "generate: |\n" + "  line\n" * 100)
    assert 'generate = "line\\nline' in message
    assert len(message) < 300 + len(str(minimal))


def test_values_that_transformers_and_peft_know_pass_through_unchanged(minimal):
    overrides = [
        "train.warmup_steps=0.03",
        "train.lr_scheduler_kwargs.num_cycles=2",  # a section that the file does not have
        "train.report_to=[tensorboard]",
        "train.eval_steps=null",
        "train.max_steps=-1",
        "lora.target_modules=[q_proj, v_proj]",
        "lora.init_lora_weights=pissa_niter_16",
        "lora.rank_pattern={q_proj: 4}",
        "lora.layer_replication=[[0, 4], [2, 5]]",
    ]
    config = load_config(minimal, overrides)
    assert config.train.arguments == {
        "learning_rate": 1e-4,
        "warmup_steps": 0.03,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "report_to": ["tensorboard"],
        "eval_steps": None,
        "max_steps": -1,
    }
    assert config.lora == {
        "target_modules": ["q_proj", "v_proj"],
        "r": 8,
        "init_lora_weights": "pissa_niter_16",
        "rank_pattern": {"q_proj": 4},
        "layer_replication": [[0, 4], [2, 5]],
    }


def test_two_sources_need_two_names(minimal):
    message = error_of(minimal, "data.sources.1.name=photos")
    assert message == 'command line: data.sources.1.name = "photos": expected a name no other source has'


@pytest.mark.parametrize(
    ("override", "other"),
    [
        ("data.skipped=raw/../out/image_map.json", "data.image_map"),
        ("data.skipped=raw/a.json", "data.sources.0.annotations"),
        ("data.skipped=raw/c.json", "data.sources.1.annotations"),
    ],
)
def test_no_file_that_is_written_may_be_another_of_the_run(minimal, override, other):
    message = error_of(minimal, override)
    assert message.startswith("command line: data.skipped = ")
    assert message.endswith(f"would write over {other}")


# ---------------------------------------------------------------------------------------------- overrides


def test_overrides_change_values_at_any_depth_and_the_last_one_counts(minimal):
    overrides = [
        "train.learning_rate=1e-5",
        "train.learning_rate=2e-5",
        "data.sources.0.images=[x, y]",
        "data.sources.1.annotations.1=z=1.json",
        "generate.batch_size=3",  # a section that the file does not have
        "vision.path=",
    ]
    config = load_config(minimal, [*overrides[:-1], "vision.path=organisation/name"])
    assert config.train.arguments["learning_rate"] == 2e-5
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
def test_an_override_that_cannot_be_applied_is_quoted(minimal, override, problem):
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {override}: ")
    assert problem in message


def test_scripts_take_a_config_and_overrides_on_both_sides_of_their_options():
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_intermixed_args(["train.seed=1", "--resume", "--config", "demo.yaml", "lora.r=4"])
    assert (args.config, args.overrides, args.resume) == ("demo.yaml", ["train.seed=1", "lora.r=4"], True)
    args = parser.parse_args([])
    assert (args.config, args.overrides) == ("config.yaml", [])


# ---------------------------------------------------------------------------------------------- round trip


def test_a_saved_config_reads_back_equal(minimal, tmp_path):
    awkward = [
        "language.system='1e-4'",
        "train.run=no",
        "train.lr_scheduler_kwargs={a: '1_000', b: 'null', c: '2024-01-01', d: '<<', e: '.5', f: '~', g: ''}",
        "train.learning_rate=1e-7",
        "train.weight_decay=0",
        "data.held_out=名单.txt",
        "projector.learning_rate=1e-3",
    ]
    config = load_config(minimal, awkward)
    saved = tmp_path / "checkpoints" / "run" / "config.yaml"
    save_config(config, saved)
    again = load_config(saved)
    assert again == config
    assert again.language.system == "1e-4"
    assert again.train.arguments["lr_scheduler_kwargs"]["e"] == ".5"
    assert "名单.txt" in saved.read_text(encoding="utf-8")
    assert os.listdir(saved.parent) == ["config.yaml"]


def test_a_saved_config_has_the_shape_of_a_written_one(minimal, tmp_path):
    save_config(load_config(minimal, ["train.seed=3"]), tmp_path / "saved.yaml")
    content = yaml.safe_load((tmp_path / "saved.yaml").read_text(encoding="utf-8"))
    assert list(content) == ["data", "vision", "language", "projector", "lora", "train", "generate"]
    own = {"run": "run", "output": "checkpoints", "max_nonfinite_steps": 10}
    assert content["train"] == {**own, "learning_rate": 1e-4, "seed": 3}


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml"])
def test_the_configs_of_the_repository_survive_saving(monkeypatch, tmp_path, name):
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


def test_a_config_saved_elsewhere_loads_without_its_models_and_data(minimal):
    overrides = ["vision.path=./gone/siglip", "language.path=/gone/qwen/"]
    assert "vision.path" in error_of(minimal, *overrides)
    config = load_config(minimal, overrides, check_models=False)
    assert (config.vision.path, config.language.path) == ("./gone/siglip", "/gone/qwen/")


def test_a_config_can_be_made_in_code():
    source = {"name": "a", "format": "coco", "annotations": "a.json", "images": "images"}
    data = {"sources": [source], "image_map": "m.json", "annotations": "n.json", "skipped": "s.json"}
    config = Config(data=data, vision={"path": "a/b"}, language={"path": "c/d"}, train={"arguments": {"seed": 1}})
    assert config.data.sources[0].annotations == [Path("a.json")]
    assert config.lora == {"target_modules": "all-linear"}


# ---------------------------------------------------------------------------------------------- models


def test_a_token_count_the_encoder_cannot_give_names_the_one_it_gives(minimal, tmp_path):
    encoder_folder(tmp_path / "tower", image_size=384, patch_size=14)
    assert load_config(minimal, ["vision.path=./tower"]).vision.image_context_length == 728
    keep = ["vision.path=./tower", "vision.drop_first_token=false"]
    assert load_config(minimal, [*keep, "vision.image_context_length=729"]).vision.image_context_length == 729
    message = error_of(minimal, *keep)
    assert "vision.image_context_length = 728: expected 729, which is what the encoder gives" in message
    assert "384 px, patch 14, vision.drop_first_token false" in message


def test_the_token_count_is_explained_before_the_length_that_follows_from_it(minimal, tmp_path):
    encoder_folder(tmp_path / "tower", image_size=112, patch_size=14)
    message = error_of(minimal, "vision.path=tower", "language.max_length=512")
    assert "vision.image_context_length = 728: expected 63" in message


@pytest.mark.parametrize("name", ["siglip", "google/siglip-so400m-patch14-384", "0-x/y.z_1"])
def test_a_name_with_at_most_one_slash_is_the_hubs(minimal, name):
    assert load_config(minimal, [f"vision.path={name}"]).vision.path == name


@pytest.mark.parametrize(
    "path",
    [
        "./towr",
        "../towr",
        "/no/towr",
        "a/b/c",
        "towr/",
        "~/no-such-towr",
        "~nobody-here/towr",
        "C:/towr",
        "D:\\towr",
        "a\\b",
    ],
)
def test_a_path_that_looks_local_must_exist(minimal, path):
    message = error_of(minimal, f"vision.path='{path}'")
    assert message.startswith("command line: vision.path = ")
    assert "no such folder, expected one that holds config.json, or a hub name" in message


def test_a_local_folder_must_hold_a_model_and_a_misspelt_one_is_recognised(minimal, tmp_path):
    (tmp_path / "models").mkdir()
    encoder_folder(tmp_path / "models" / "siglip", image_size=384, patch_size=14)
    assert error_of(minimal, "language.path=./models").endswith("expected a model folder, but it holds no config.json")
    message = error_of(minimal, "vision.path=./models/siglp")
    assert message.endswith("nearest existing path: models/siglip")
    (tmp_path / "models" / "siglip" / "config.json").write_text("{", encoding="utf-8")
    assert 'vision.path = "./models/siglip": expected a readable config.json' in error_of(
        minimal, "vision.path=./models/siglip"
    )


# ---------------------------------------------------------------------------------------------- data paths


def missing(config: Config, *keys: str) -> str:
    with pytest.raises(UserError) as caught:
        require_paths(config, *keys)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def test_preprocessed_files_that_are_missing_say_what_to_run(minimal, tmp_path):
    config = load_config(minimal)
    for key in ("data.image_map", "data.annotations"):
        message = missing(config, key)
        assert message.startswith(f'{key} = "out/{key.removeprefix("data.")}.json": does not exist, expected a file')
        assert "run process_image.py" in message
    (tmp_path / "out").mkdir()
    for name in ("image_map.json", "annotations.json"):
        (tmp_path / "out" / name).write_text("{}", encoding="utf-8")
    require_paths(config, "data.image_map", "data.annotations")


def test_every_file_and_folder_of_every_source_is_required(minimal, tmp_path):
    config = load_config(minimal)
    needed = [
        ("data.sources.0.annotations", "raw/a.json"),
        ("data.sources.0.images", "raw/images"),
        ("data.sources.1.annotations", "raw/b.json"),
        ("data.sources.1.annotations", "raw/c.json"),
        ("data.sources.1.images", "raw/d1"),
        ("data.sources.1.images", "raw/d2"),
    ]
    (tmp_path / "raw").mkdir()
    for key, path in needed:
        message = missing(config, "data.sources")
        assert message.startswith(f'{key} = "{path}": does not exist, expected ')
        assert "python -m demo.scenes" in message
        if path.endswith(".json"):
            (tmp_path / path).write_text("[]", encoding="utf-8")
        else:
            (tmp_path / path).mkdir()
    require_paths(config, "data.sources")


def test_a_file_where_a_folder_belongs_is_not_enough(minimal, tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("a.json", "images"):
        (tmp_path / "raw" / name).write_text("", encoding="utf-8")
    message = missing(load_config(minimal), "data.sources")
    assert message.startswith('data.sources.0.images = "raw/images": is something else, expected a folder of images')


def test_a_held_out_list_must_exist_and_a_share_need_not(minimal, tmp_path):
    require_paths(load_config(minimal), "data.held_out")
    config = load_config(minimal, ["data.held_out=raw/held_aut.txt"])
    assert missing(config, "data.held_out").startswith('data.held_out = "raw/held_aut.txt": does not exist')
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "held_out.txt").write_text("", encoding="utf-8")
    assert missing(config, "data.held_out").endswith("nearest existing path: raw/held_out.txt")


def test_a_key_that_is_no_path_is_the_programmers_mistake(minimal):
    with pytest.raises(KeyError):
        require_paths(load_config(minimal), "data.seed")


def test_a_message_is_one_line_whatever_goes_into_it():
    assert str(UserError("a\nb\r\nc\u2028d\ud800")) == r"a b c d\ud800"
