"""One module for each format of annotations: how its records are read, and what each of them says.
A new format is one module and one entry of FORMATS. May import what dataset.preparing may."""

from __future__ import annotations

from dataset.converters import ali, llava
from dataset.converters.base import Format

FORMATS: dict[str, Format] = {"llava": llava.FORMAT, "ali": ali.FORMAT}
OLD_NAMES = {"coco": "llava"}  # old name -> name


def format_named(name: str) -> Format:
    """The entry of :data:`FORMATS` that ``data.sources.*.format`` names, by its name or by its old one."""
    return FORMATS[OLD_NAMES.get(name, name)]
