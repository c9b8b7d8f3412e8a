"""A run's config in one YAML file: schema, reading and saving, checks, overrides from the command line.
May import common and visual.geometry; never torch, transformers or peft."""

from settings.arguments import add_config_arguments
from settings.checks import change_generate, require_paths
from settings.schema import SHARDS, Baselines, Config, Data, Generate, Language, Lora, Projector, Source, Train, Vision
from settings.yaml_file import load_config, save_config

__all__ = [
    "SHARDS",
    "Baselines",
    "Config",
    "Data",
    "Generate",
    "Language",
    "Lora",
    "Projector",
    "Source",
    "Train",
    "Vision",
    "add_config_arguments",
    "change_generate",
    "load_config",
    "require_paths",
    "save_config",
]
