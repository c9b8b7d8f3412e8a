"""What is wrong with a config is one line that names the key."""

from __future__ import annotations

import pytest

from common.errors import UserError
from settings import Config, load_config, require_paths
from tests.helpers.configs import MINIMAL, encoder_folder, error_of, error_of_text


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
        ("train.group_by_length=true", "data.tokens_per_batch (batches hold samples of similar length anyway)"),
    ],
)
def test_an_unknown_key_is_named_with_its_value_and_the_nearest_valid_one(minimal, override, nearest):
    key, _, value = override.partition("=")
    message = error_of(minimal, override)
    assert message.startswith(f"command line: {key} = {value}: unknown key, expected ")
    assert message.endswith(f"; nearest valid key: {nearest}")


def test_an_unknown_section_on_the_command_line_is_named_with_its_keys(minimal):
    message = error_of(minimal, "Train.learning_rate=1")
    assert message.startswith(
        'command line: Train = {"learning_rate": 1}: unknown key, expected one of model, data, vision'
    )
    assert message.endswith("; nearest valid key: train")


def test_a_dotted_key_in_the_file_gets_the_advice_to_indent_it(minimal):
    message = error_of_text(minimal, MINIMAL + "train.seed: 5\n")
    assert message.endswith("nearest valid key: seed, indented under train:")


def test_an_error_names_the_file_or_the_command_line(minimal):
    minimal.write_text(MINIMAL.replace("learning_rate", "learning_rte"), encoding="utf-8")
    message = error_of(minimal, "data.seed=5")
    assert message.startswith(
        f"{minimal}: train.learning_rte = 0.0001: unknown key, expected one of run, output, max_n"
    )
    assert error_of(minimal, "data.sead=5").startswith("command line: data.sead = 5: ")
    minimal.write_text(MINIMAL, encoding="utf-8")
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


def test_the_tower_and_the_language_model_may_have_learning_rates_of_their_own(minimal):
    config = load_config(minimal, ["vision.train=full", "vision.learning_rate=1e-5", "language.learning_rate=2e-4"])
    assert (config.vision.learning_rate, config.language.learning_rate) == (1e-5, 2e-4)
    message = error_of(minimal, "language.train=frozen", "language.learning_rate=2e-4")
    assert message == "command line: language.learning_rate = 0.0002: expected null where language.train is frozen"


BEST = ["train.load_best_model_at_end=true", "train.eval_strategy=steps"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.save_strategy=epoch"], "train.load_best_model_at_end = true: expected train.save_strategy to be"),
        (["train.save_strategy=no"], "train.load_best_model_at_end = true: expected train.save_strategy to be"),
        (["train.save_steps=500", "train.eval_steps=200"], "train.save_steps = 500: expected a multiple of train.eval"),
    ],
)
def test_the_best_checkpoint_needs_an_evaluation_at_every_save(minimal, overrides, message):
    assert error_of(minimal, *BEST, *overrides).startswith(f"command line: {message}")
    assert load_config(minimal, [*BEST, "train.save_steps=400", "train.eval_steps=200"]).train.load_best_model_at_end
    assert load_config(minimal, [*BEST, "train.save_steps=300"]).train.steps_per_eval == 300


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("linear", "{speed: 2}", "kwargs.speed = 2: expected no options with train.lr_scheduler_type = linear"),
        ("polynomial", "{powr: 2}", "kwargs.powr = 2: expected one of lr_end, power with train.lr_scheduler_type ="),
        ("cosine", "{num_cycles: '1'}", 'kwargs.num_cycles = "1": expected a number, 0 or more'),
        ("inverse_sqrt", "{timescale: -1}", "kwargs.timescale = -1: expected a number, 0 or more"),
        ("cosine_with_min_lr", "null", "kwargs = {}: expected either min_lr or min_lr_rate"),
        ("cosine_with_min_lr", "{min_lr: 0, min_lr_rate: 0}", "expected either min_lr or min_lr_rate"),
        ("warmup_stable_decay", "{}", "kwargs = {}: expected num_decay_steps"),
        ("warmup_stable_decay", "{num_decay_steps: 9, decay_type: sqrt}", "expected one of linear, cosine, 1-sqrt"),
        ("polynomial", "{lr_end: 1}", 'kwargs = {"lr_end": 1}: expected an lr_end below train.learning_rate (0.0001)'),
    ],
)
def test_a_schedule_refuses_foreign_options_and_needs_some_of_its_own(minimal, kind, options, message):
    found = error_of(minimal, f"train.lr_scheduler_type={kind}", f"train.lr_scheduler_kwargs={options}")
    assert found.startswith("command line: train.lr_scheduler_kwargs") and message in found


def test_schedules_are_accepted_with_their_options(minimal):
    for kind, options in (
        ("linear", "null"),
        ("cosine_with_min_lr", "{min_lr_rate: 0.1}"),
        ("polynomial", "{power: 2}"),
        ("warmup_stable_decay", "{num_decay_steps: 10, warmup_type: cosine, decay_type: 1-sqrt}"),
    ):
        load_config(minimal, [f"train.lr_scheduler_type={kind}", f"train.lr_scheduler_kwargs={options}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["lora.target_modules='(q_proj'"],
            'lora.target_modules = "(q_proj": expected a list of module names, or a r',
        ),
        (
            ["lora.exclude_modules='*_proj'"],
            'lora.exclude_modules = "*_proj": expected a list of module names, or a r',
        ),
        (
            ["lora.layers_to_transform=[0]"],
            "lora.layers_to_transform = [0]: expected null where lora.target_modules",
        ),
        (
            ["lora.layers_pattern=layers"],
            'lora.layers_pattern = "layers": expected null where lora.target_modules',
        ),
        (
            ["lora.target_modules=[q_proj]", "lora.layers_pattern=layers"],
            'lora.layers_pattern = "layers": expected null where lora.layers_to_transform is null',
        ),
        (["lora.modules_to_save=[lm_head]"], 'lora.modules_to_save = ["lm_head"]: expected null with'),
    ],
)
def test_adapters_that_peft_would_refuse_are_refused_before_anything_is_loaded(minimal, overrides, message):
    assert error_of(minimal, *overrides).startswith(f"command line: {message}")


def test_two_sources_need_different_names(minimal):
    message = error_of(minimal, "data.sources.1.name=photos")
    assert message == 'command line: data.sources.1.name = "photos": expected a name that no other source has'


@pytest.mark.parametrize(
    ("override", "other"),
    [
        ("data.skipped=raw/../out/image_map.json", "data.image_map"),
        ("data.skipped=raw/a.json", "data.sources.0.annotations"),
        ("data.skipped=raw/c.json", "data.sources.1.annotations"),
    ],
)
def test_an_output_file_may_not_overwrite_another_file_of_the_run(minimal, override, other):
    message = error_of(minimal, override)
    assert message.startswith("command line: data.skipped = ")
    assert message.endswith(f"would write over {other}")


def test_a_wrong_token_count_names_the_right_one(minimal, tmp_path):
    encoder_folder(tmp_path / "tower", image_size=384, patch_size=14)
    assert load_config(minimal, ["vision.path=./tower"]).vision.image_context_length == 728
    keep = ["vision.path=./tower", "vision.drop_first_token=false"]
    assert load_config(minimal, [*keep, "vision.image_context_length=729"]).vision.image_context_length == 729
    message = error_of(minimal, *keep)
    assert "vision.image_context_length = 728: expected 729, which is what the encoder gives" in message
    assert "384 px, patch 14, vision.drop_first_token false" in message


def test_a_wrong_token_count_is_reported_before_a_max_length_that_follows_from_it(minimal, tmp_path):
    encoder_folder(tmp_path / "tower", image_size=112, patch_size=14)
    message = error_of(minimal, "vision.path=tower", "language.max_length=512")
    assert "vision.image_context_length = 728: expected 63" in message


@pytest.mark.parametrize("name", ["siglip", "google/siglip-so400m-patch14-384", "0-x/y.z_1"])
def test_a_name_with_at_most_one_slash_is_a_hub_name(minimal, name):
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


def test_a_local_folder_must_hold_a_model_and_the_nearest_name_is_shown(minimal, tmp_path):
    (tmp_path / "models").mkdir()
    encoder_folder(tmp_path / "models" / "siglip", image_size=384, patch_size=14)
    assert error_of(minimal, "language.path=./models").endswith("expected a model folder, but it holds no config.json")
    message = error_of(minimal, "vision.path=./models/siglp")
    assert message.endswith("nearest existing path: models/siglip")
    (tmp_path / "models" / "siglip" / "config.json").write_text("{", encoding="utf-8")
    assert 'vision.path = "./models/siglip": expected a readable config.json' in error_of(
        minimal, "vision.path=./models/siglip"
    )


def missing(config: Config, *keys: str) -> str:
    with pytest.raises(UserError) as caught:
        require_paths(config, *keys)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def test_missing_preprocessed_files_say_what_to_run(minimal, tmp_path):
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


@pytest.mark.parametrize("key", ["data.validation", "data.test"])
def test_the_list_of_a_split_must_exist_and_a_share_need_not(minimal, tmp_path, key):
    require_paths(load_config(minimal), key)
    config = load_config(minimal, [f"{key}=raw/nomes.txt"])
    assert missing(config, key).startswith(f'{key} = "raw/nomes.txt": does not exist')
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "names.txt").write_text("", encoding="utf-8")
    assert missing(config, key).endswith("nearest existing path: raw/names.txt")


def test_the_splits_leave_something_to_train_on_and_differ(minimal):
    together = "command line: data.test = 0.5: expected less than 1 together with data.validation (0.5)"
    assert error_of(minimal, "data.validation=0.5", "data.test=0.5").startswith(together)
    assert load_config(minimal, ["data.validation=0.5", "data.test=0.49"]).data.test == 0.49
    same = error_of(minimal, "data.validation=names.txt", "data.test=names.txt")
    assert 'data.test = "names.txt": expected another list than data.validation' in same


def test_require_paths_raises_a_key_error_for_a_key_that_is_no_path(minimal):
    with pytest.raises(KeyError):
        require_paths(load_config(minimal), "data.seed")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["vision.train=last_blocks"],
            "vision.last_blocks = null: expected a number where vision.train is last_blocks",
        ),
        (["vision.last_blocks=2"], "vision.last_blocks = 2: expected a number where"),
        (
            ["language.load_in_4bit=true", "language.train=full"],
            "language.load_in_4bit = true: expected false where language.train is full",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make_config, overrides, problem):
    with pytest.raises(UserError) as caught:
        make_config(*overrides)
    assert problem in str(caught.value)
