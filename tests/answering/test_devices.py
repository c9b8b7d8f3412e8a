"""The device's name is checked without torch, and a device that is not there is one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from answering.devices import check_device, choose_device
from common.errors import UserError
from tests.helpers.tiny import REPO


def test_known_names_pass_and_others_are_named():
    for name in (None, "cpu", "cuda", "cuda:1", "mps"):
        check_device(name)
    for name in ("moon", "cuda:", "cuda:x", ""):
        with pytest.raises(UserError, match=f"device '{name}' is not known; use cpu, cuda or cuda:0"):
            check_device(name)


def test_the_check_of_the_name_does_not_import_torch():
    code = "import sys; from answering.devices import check_device; check_device('cuda:1'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_the_default_is_the_processor_in_fp32_where_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == (torch.device("cpu"), torch.float32)
    with pytest.raises(UserError, match="device 'cuda:1': torch sees no CUDA here"):
        choose_device("cuda:1")


@pytest.mark.parametrize(("name", "module"), [("mps", torch.backends.mps), ("xpu", torch.xpu)])
def test_apples_and_intels_devices_are_taken_only_by_name_in_fp32(name, module, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "is_available", lambda: True)
    assert choose_device(name) == (torch.device(name), torch.float32)
    assert choose_device() == (torch.device("cpu"), torch.float32)
    monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"device '{name}': torch sees no {name.upper()} here"):
        choose_device(name)


def test_cuda_answers_in_bf16_where_it_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        assert choose_device() == (torch.device("cuda"), dtype)
