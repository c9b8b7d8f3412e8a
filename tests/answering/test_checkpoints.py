"""Which checkpoint is offered and opened, before torch is imported."""

from __future__ import annotations

import argparse
import os
import re
import shutil

import pytest

from answering.assistant import Assistant
from answering.checkpoints import (
    add_checkpoint_arguments,
    base_overrides,
    check_overrides,
    checkpoints_under,
    first_choice,
    is_demo,
    is_override,
    max_pixels_of,
    open_config,
)
from common.errors import UserError
from model.manifest import read_manifest, write_manifest
from tests.helpers.exports import trained_checkpoint
from tests.helpers.llava import save_llava, start_from
from tests.helpers.tiny import save_qwen


def test_checkpoints_are_listed_newest_first_and_a_demo_is_chosen_last(checkpoint, tmp_path):
    folder = tmp_path / "checkpoints"
    demo, cut_short = folder / "demo" / "checkpoint-9", folder / "test" / "checkpoint-2"
    shutil.copytree(checkpoint, demo)
    cut_short.mkdir()
    text = (demo / "config.yaml").read_text(encoding="utf-8")
    (demo / "config.yaml").write_text(re.sub(r"path: .*qwen.*", "path: demo/backbones/qwen", text), encoding="utf-8")
    os.utime(checkpoint / "manifest.json", (1, 1))
    assert checkpoints_under(folder) == [demo, checkpoint]
    assert is_demo(demo) and is_demo(demo.parent) and not is_demo(checkpoint)
    assert first_choice(folder) == checkpoint
    shutil.rmtree(checkpoint)
    assert first_choice(folder) == demo and first_choice(folder / "demo") is None


def test_the_config_of_a_checkpoint_or_a_run_is_read_with_overrides(checkpoint):
    for path in (checkpoint, checkpoint.parent):
        config = open_config(path, ["generate.max_new_tokens=3"])
        assert (config.train.run, config.generate.max_new_tokens) == ("test", 3)
    assert open_config(checkpoint).generate.max_new_tokens == 8
    with pytest.raises(UserError, match="nearest valid key: generate.batch_size"):
        open_config(checkpoint, ["generate.batchsize=4"])


def test_no_checkpoint_and_a_damaged_manifest_are_one_line(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        open_config(tmp_path / "nowhere")
    (checkpoint / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="manifest.json"):
        open_config(checkpoint)


@pytest.mark.parametrize("file", ["manifest.json", "config.yaml"])
def test_of_a_run_a_damaged_checkpoint_is_passed_over(checkpoint, file):
    newer = checkpoint.with_name("checkpoint-2")
    shutil.copytree(checkpoint, newer)
    (newer / file).write_text("{}", encoding="utf-8")
    assert open_config(checkpoint.parent).train.run == "test"
    with pytest.raises(UserError, match=file):
        open_config(newer)


def bases(*arguments: str) -> list[str]:
    parser = argparse.ArgumentParser()
    add_checkpoint_arguments(parser)
    return base_overrides(parser.parse_args(list(map(str, arguments))))


@pytest.fixture
def moved(checkpoint, tmp_path):
    """A checkpoint whose config names base models that are no longer there, and the folder they are in."""
    config = open_config(checkpoint)
    for name, path in (("language", config.language.path), ("vision", config.vision.path)):
        shutil.copytree(path, tmp_path / "moved" / name)
    text = (checkpoint / "config.yaml").read_text(encoding="utf-8")
    for path in (config.language.path, config.vision.path):
        text = text.replace(path, path + "-gone")
    (checkpoint / "config.yaml").write_text(text, encoding="utf-8")
    manifest = read_manifest(checkpoint)
    del manifest["files"]
    write_manifest(checkpoint, manifest)
    return checkpoint, tmp_path / "moved"


def test_base_models_that_have_moved_are_named_on_the_command_line(moved):
    checkpoint, folder = moved
    with pytest.raises(UserError, match="vision.path = .*-gone: no such folder, .* with --base-vision DIR"):
        Assistant.load(checkpoint, "cpu")
    both = bases("--base-language", folder / "language", "--base-vision", folder / "vision")
    with pytest.raises(UserError, match="language.path = .*-gone: .*--base-language DIR"):
        Assistant.load(checkpoint, "cpu", overrides=both[1:])
    assistant = Assistant.load(checkpoint, "cpu", overrides=both)
    assert assistant.config.language.path == str(folder / "language")


def test_a_llava_that_has_moved_is_named_on_the_command_line(make_config, tmp_path):
    make_config()
    llava = save_llava(tmp_path / "llava")
    checkpoint = trained_checkpoint(start_from(tmp_path / "run.yaml", llava), tmp_path / "checkpoint")
    llava.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="model = .*llava: .*--base-model DIR"):
        Assistant.load(checkpoint, "cpu")
    assistant = Assistant.load(checkpoint, "cpu", overrides=bases("--base-model", tmp_path / "moved"))
    assert assistant.config.model == str(tmp_path / "moved")
    save_llava(tmp_path / "other", layer=-2)
    with pytest.raises(UserError, match="model: .*other is not the model that .* was trained from"):
        Assistant.load(checkpoint, "cpu", overrides=bases("--base-model", tmp_path / "other"))


def test_another_base_model_is_refused_by_its_hash(moved):
    checkpoint, folder = moved
    save_qwen(folder / "other", hidden_act="gelu")
    wrong = bases("--base-language", folder / "other", "--base-vision", folder / "vision")
    with pytest.raises(UserError, match="language.path: .*other is not the model that .* was trained from"):
        Assistant.load(checkpoint, "cpu", overrides=wrong)


def test_a_folder_without_a_model_and_a_key_that_cannot_be_changed_are_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"--base-language = {tmp_path}: no config.json in it")):
        bases("--base-language", tmp_path)
    for word in ("generate.top_k=5", "data.max_pixels=10"):
        assert is_override(word)
        check_overrides([word])
    for word in ("train.run=x", "data.seed=1", "generate.top_k", "What is data.max_pixels=10?"):
        assert not is_override(word)
        with pytest.raises(UserError, match="only generate.KEY=VALUE and data.max_pixels=N can be changed here"):
            check_overrides([word])


def test_the_largest_picture_is_that_of_the_checkpoints_run(checkpoint, tmp_path):
    assert max_pixels_of(None) == max_pixels_of(tmp_path / "nowhere") == max_pixels_of(checkpoint) == 50_000_000
    assert max_pixels_of(checkpoint, ["data.max_pixels=77"]) == 77
