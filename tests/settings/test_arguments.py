"""The arguments that every command with a config shares."""

from __future__ import annotations

import argparse

from settings import add_config_arguments


def test_scripts_take_a_config_and_overrides_on_both_sides_of_their_options():
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_intermixed_args(["train.seed=1", "--resume", "--config", "demo.yaml", "lora.r=4"])
    assert (args.config, args.overrides, args.resume) == ("demo.yaml", ["train.seed=1", "lora.r=4"], True)
    args = parser.parse_args([])
    assert (args.config, args.overrides) == ("config.yaml", [])
