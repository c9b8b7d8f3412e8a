"""Reading and writing a config: YAML 1.2 without duplicate keys, ``KEY=VALUE`` overrides, saving."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.files import write_text
from settings.checks import Invalid, nearest_path, show, update_old_keys, validate
from settings.schema import Config


def load_config(path: str | Path, overrides: Sequence[str] = (), *, check_models: bool = True) -> Config:
    """Read a config, apply ``KEY=VALUE`` overrides, and validate everything that can be checked without the data.

    With ``check_models`` the local folders of vision and language must exist, and the encoder must give
    ``vision.image_context_length`` tokens. Without it the file is a checkpoint's: the models may be elsewhere, and keys
    that an earlier version wrote are renamed or left out.
    Data paths are checked by :func:`settings.checks.require_paths`, each when it is needed.

    Raises:
        UserError: one line that names the key, its value, what was expected and the nearest valid key.
    """
    overridden: list[str] = []
    try:
        raw = read_yaml(path)
        if not check_models:
            update_old_keys(raw)
        for text in overrides:
            overridden.append(override(raw, text))
        return validate(raw, check_models)
    except Invalid as problem:
        where = "command line" if any(_overlap(key, problem.key) for key in overridden) else path
        raise UserError(f"{where}: {problem}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply, or a YAML alias that contains itself") from None


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def save_config(config: Config, path: str | Path) -> None:
    """Write what :func:`load_config` reads back as an equal config. A crash leaves the old file or the new one.

    Raises:
        UserError: the file cannot be written.
    """
    content = config.model_dump(mode="json")
    text = yaml.dump(content, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120)
    try:
        write_text(Path(path), text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


# ---------------------------------------------------------------------------------------------- YAML


_TAG = "tag:yaml.org,2002:"
_PLAIN_VALUES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:[0-9]+|[0-9]{1,3}(?:_[0-9]{3})+)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain values, which refuses duplicate keys.

    PyYAML follows YAML 1.1, which reads ``1e-4`` as text, ``eval_strategy: no`` as false, 010 as 8 and 1:30 as 90.
    """

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {
        **{
            _TAG + t: yaml.SafeLoader.yaml_constructors[_TAG + t]
            for t in ("null", "bool", "float", "str", "seq", "map")
        },
        _TAG + "int": _construct_int,
        None: yaml.SafeLoader.construct_undefined,
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value}", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes every text that :class:`_Loader` would read as something else."""

    yaml_implicit_resolvers: dict = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _PLAIN_VALUES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), _first)


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text; ``where`` begins the error.

    Raises:
        UserError: not valid YAML, with the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{where}: {line}not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}: line {number}: not valid YAML: character U+{error.character:04X}") from None
    except (ValueError, KeyError) as error:  # a number of thousands of digits, or "!!bool maybe"
        raise UserError(f"{where}: not valid YAML: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The sections of a config file, not yet validated.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8, not YAML, or holds no sections.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected a config (--config FILE){nearest_path(path)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raw = parse_yaml(text, str(path))
    sections = ", ".join(Config.model_fields)
    if raw is None:
        raise UserError(f"{path}: the file is empty; expected the sections {sections}")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected the sections {sections} at the top, not a {type(raw).__name__}")
    return raw


def override(raw: dict[str, Any], text: str) -> str:
    """Set one ``KEY=VALUE`` of ``raw`` and return the key. Missing sections are created.

    Raises:
        UserError: not KEY=VALUE, the value is not YAML, or the key goes through something that has no keys.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"command line: {text}: expected KEY=VALUE, such as train.learning_rate=1e-4")
    parsed = parse_yaml(value, f"command line: {text}")
    here: Any = raw
    for depth, part in enumerate(parts):
        index: int | str = part
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                listed = ".".join(parts[:depth])
                raise UserError(f"command line: {text}: {listed} is a list of {len(here)}; expected an index from 0")
            index = int(part)
        elif not isinstance(here, dict):
            raise UserError(f"command line: {text}: {'.'.join(parts[:depth])} is {show(here)}, which has no keys")
        if depth == len(parts) - 1:
            here[index] = parsed
        else:
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
            here = here[index]
    return ".".join(parts)
