"""Optional packages: none is imported, and none prints anything, unless the run asks for it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from common.errors import UserError


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported; it is not imported to find out."""
    return importlib.util.find_spec(package) is not None


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Make an installed package look as if it was not: importing it fails, and ``find_spec`` gives None.

    For libraries that import an optional package because it is there. A package that is already imported stays: who
    imported it asked for it.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own way to say: do not look for it
    try:
        yield
    finally:
        del sys.modules[package]


def import_bitsandbytes() -> ModuleType:
    """bitsandbytes, for a run with 4-bit weights or 8-bit optimiser states, without its notices.

    Its CPU backend looks for another package (``kernels``) on processors with AVX512-BF16 and prints a warning when it
    is not there. It computes the same without it.

    peft and transformers remember whether bitsandbytes is installed. Where peft was imported while it was hidden
    (model/plain_peft.py), they are made to look again.

    Raises:
        ImportError: it is not installed, or cannot be loaded here.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"bitsandbytes\.")
    module = importlib.import_module("bitsandbytes")
    for owner, names in (
        ("peft.import_utils", ("is_bnb_available", "is_bnb_4bit_available")),
        ("transformers.utils.import_utils", ("is_bitsandbytes_available",)),
    ):
        if owner in sys.modules:
            for name in names:
                getattr(sys.modules[owner], name).cache_clear()
    return module


def require_packages(packages: Sequence[str], purpose: str) -> None:
    """Check that optional packages are installed.

    Raises:
        UserError: names ``purpose``, those that are missing, and the command that installs them.
    """
    if missing := [package for package in packages if not is_installed(package)]:
        raise UserError(f"{purpose}: needs {' and '.join(missing)}; pip install {' '.join(missing)}")
