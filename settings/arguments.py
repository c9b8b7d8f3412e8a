"""The command-line arguments that every command with a config shares."""

from __future__ import annotations

from argparse import ArgumentParser


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add ``--config FILE`` and the overrides ``KEY=VALUE`` to a command.

    Parse with ``parse_intermixed_args`` where the command has options of its own: plain ``parse_args`` refuses
    overrides on both sides of an option.
    """
    parser.add_argument("--config", default="config.yaml", metavar="FILE", help="the run (default: %(default)s)")
    change = "change a key of the config, such as train.learning_rate=1e-4"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=change)
