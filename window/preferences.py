"""What the window remembers between runs, in the user's config folder."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.files import write_text
from common.text import whole

LANGUAGES = {"en": "English", "zh": "中文"}
SIZES = (0, 100, 125, 150, 200)  # percent; 0: the scale of the screen


@dataclass
class Preferences:
    """The window's settings. None, "" and a size of 0 mean the default of the checkpoint, the locale or the screen."""

    language: str = ""
    dark: bool = False
    size: int = 0
    look: bool = False  # whether attention maps are shown
    do_sample: bool = False
    temperature: float = 1.0
    max_new_tokens: int | None = None
    system: str | None = None
    device: str = ""
    folder: str = ""  # of the last file that was opened or saved

    def overrides(self) -> dict[str, Any]:
        """The settings of an answer, for :meth:`answering.worker.Worker.ask`."""
        always: dict[str, Any] = {"do_sample": self.do_sample, "temperature": self.temperature}
        chosen: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "system": self.system}
        return always | {name: value for name, value in chosen.items() if value is not None}

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
    checks = {
        "language": lambda: value in LANGUAGES,
        "size": lambda: type(value) is int and value in SIZES,
        "temperature": lambda: type(value) in (int, float) and 0 < value <= 5,
        "max_new_tokens": lambda: type(value) is int and value >= 1,
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
