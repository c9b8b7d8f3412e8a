"""What the window remembers between runs, in the user's config folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from common.files import write_text
from common.text import whole

LANGUAGES = {"en": "English", "zh": "中文"}
SIZES = (0, 100, 125, 150, 200)  # percent; 0: the scale of the screen
ANSWER = (  # the settings of an answer: keys of the config's section generate, and the system prompt
    *("do_sample", "temperature", "top_p", "top_k", "seed", "num_beams", "repetition_penalty"),
    *("no_repeat_ngram_size", "min_new_tokens", "max_new_tokens", "stop_strings", "system"),
)
NULLABLE = ("top_k", "seed")  # "" is the null of these keys: all tokens, and another answer each time


class Number(NamedTuple):
    """A number field: ``key`` is its name in the config's section generate and in the texts."""

    key: str
    least: float
    most: float
    step: float
    convert: Callable[[str], float]
    samples: bool = False  # whether only sampling uses it


NUMBERS = (
    Number("temperature", 0.1, 5, 0.1, float, samples=True),
    Number("top_p", 0.01, 1, 0.05, float, samples=True),
    Number("top_k", 1, 1_000_000, 10, int, samples=True),
    Number("seed", 0, 2**32 - 1, 1, int, samples=True),
    Number("num_beams", 1, 32, 1, int),
    Number("repetition_penalty", 0.1, 5, 0.05, float),
    Number("min_new_tokens", 0, 4096, 16, int),
    Number("max_new_tokens", 1, 4096, 16, int),
    Number("no_repeat_ngram_size", 0, 100, 1, int),
)


@dataclass
class Preferences:
    """The window's settings. None, "" and a size of 0 mean the default of the checkpoint, the locale or the screen."""

    language: str = ""
    dark: bool = False
    size: int = 0
    look: bool = False  # whether attention maps are shown
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | str | None = None
    seed: int | str | None = None
    num_beams: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int | None = None
    max_new_tokens: int | None = None
    stop_strings: list[str] | None = None
    system: str | None = None
    device: str = ""
    folder: str = ""  # of the last file that was opened or saved

    def overrides(self) -> dict[str, Any]:
        """The settings of an answer that are not the checkpoint's, for :meth:`answering.worker.Worker.ask`."""
        chosen = {name: getattr(self, name) for name in ANSWER if getattr(self, name) is not None}
        return {name: None if name in NULLABLE and value == "" else value for name, value in chosen.items()}

    def save(self, file: Path | None = None) -> None:
        """Write them to the user's config folder. A folder that cannot be written to is not an error."""
        file = file or preferences_file()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(asdict(self), ensure_ascii=False, indent=2))
        except OSError:
            pass

    @classmethod
    def load(cls, file: Path | None = None) -> Preferences:
        """The saved settings. A value that cannot be used, or a damaged file, is replaced by the default."""
        try:
            saved = json.loads((file or preferences_file()).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        found = cls()
        for item in fields(cls):
            value = saved.get(item.name) if isinstance(saved, dict) else None
            if _usable(item.name, value):
                setattr(found, item.name, value)
        return found


def _usable(name: str, value: Any) -> bool:
    """Whether a saved value can be used. Importing settings/schema.py, which has the same limits, takes 0.15 s."""
    number, whole_number = type(value) in (int, float), type(value) is int
    checks = {
        "language": lambda: value in LANGUAGES,
        "size": lambda: whole_number and value in SIZES,
        "temperature": lambda: number and 0 < value <= 5,
        "top_p": lambda: number and 0 < value <= 1,
        "top_k": lambda: value == "" or whole_number and value >= 1,
        "seed": lambda: value == "" or whole_number and 0 <= value < 2**32,
        "num_beams": lambda: whole_number and value >= 1,
        "repetition_penalty": lambda: number and value > 0,
        "no_repeat_ngram_size": lambda: whole_number and value >= 0,
        "min_new_tokens": lambda: whole_number and value >= 0,
        "max_new_tokens": lambda: whole_number and value >= 1,
        "stop_strings": lambda: isinstance(value, list) and all(isinstance(stop, str) and stop for stop in value),
        "system": lambda: isinstance(value, str) and not whole(value)[1],
        "device": lambda: isinstance(value, str),
        "folder": lambda: isinstance(value, str),
    }
    return checks[name]() if name in checks else isinstance(value, bool)


def preferences_file() -> Path:
    """The file in the folder where this system keeps programs' settings."""
    home = Path.home()
    folder = {
        "win32": os.environ.get("APPDATA") or home / "AppData" / "Roaming",
        "darwin": home / "Library" / "Application Support",
    }.get(sys.platform, os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return Path(folder) / "ask-a-picture" / "settings.json"
