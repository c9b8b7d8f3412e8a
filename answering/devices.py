"""Which device answers: the name is checked before torch is imported, the device itself after."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


def check_device(name: str | None) -> None:
    """Raises UserError if there is no kind of device with this name. None is the default device."""
    if name is not None and not _NAME.fullmatch(name):
        raise UserError(f"device {name!r} is not known; use cpu, cuda or cuda:0")


def choose_device(wanted: str | None = None) -> tuple[torch.device, torch.dtype]:
    """The device, by default CUDA if there is one, and its dtype: bf16 where CUDA has it, else fp32.

    Raises:
        UserError: there is no such device.
    """
    import torch

    check_device(wanted)
    device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    seen: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "xpu": torch.xpu.is_available,
    }
    if device.type in seen and not seen[device.type]():
        kind = device.type.upper()
        raise UserError(
            f"device {wanted!r}: torch sees no {kind} here; use cpu, or install a build of torch with {kind}"
        )
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return device, torch.bfloat16 if has_bf16 else torch.float32
