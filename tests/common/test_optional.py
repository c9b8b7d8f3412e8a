"""Optional packages stay out of a process, and off stderr, until a run asks for them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from common.optional import hidden, is_installed
from tests.helpers.tiny import REPO

# A processor with AVX512-BF16, or without: what bitsandbytes' library says when it is asked for the feature. On one
# with it, bitsandbytes looks for the package `kernels` when it is imported, and warns on stderr that it is not there.
PROCESSOR = """
import ctypes
load = ctypes.cdll.LoadLibrary
def patched(name):
    library = load(name)
    if "bitsandbytes" in str(name):
        library.has_avx512bf16_cpu = lambda: {feature}
    return library
ctypes.cdll.LoadLibrary = patched
"""
needs_bitsandbytes = pytest.mark.skipif(not is_installed("bitsandbytes"), reason="bitsandbytes is not installed")


def run(code: str, feature: bool = True) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONWARNINGS": "default::UserWarning"}
    code = PROCESSOR.format(feature=feature) + code
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_hidden_package_cannot_be_found_or_imported_and_is_back_afterwards():
    with hidden("wave"):
        assert not is_installed("wave")
        with pytest.raises(ImportError):
            import wave
    assert is_installed("wave") and "wave" not in sys.modules
    import wave  # noqa: F811

    with hidden("wave"):  # who imported it asked for it
        assert sys.modules["wave"] is wave and is_installed("wave")
    assert sys.modules.pop("wave") is wave


def test_a_package_that_does_not_exist_can_be_hidden_too():
    with hidden("no_such_package"):
        assert not is_installed("no_such_package")
    assert "no_such_package" not in sys.modules


@needs_bitsandbytes
@pytest.mark.skipif(is_installed("kernels"), reason="the package whose absence is warned about is installed")
def test_bitsandbytes_itself_prints_a_notice_on_a_processor_with_avx512_bf16():
    """The reason for all of this: without it, these tests would pass for nothing."""
    assert "kernels" in run("import bitsandbytes", feature=True).stderr
    assert run("import bitsandbytes", feature=False).stderr == ""


@needs_bitsandbytes
@pytest.mark.parametrize("feature", [True, False])
def test_bitsandbytes_prints_nothing_where_a_run_asks_for_it(feature):
    code = "from common.optional import import_bitsandbytes; print(import_bitsandbytes().nn.Linear4bit.__name__)"
    done = run(code, feature)
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["Linear4bit"])


MODEL = """
import sys
import torch
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from settings import load_config
from model.model import quiet_libraries
quiet_libraries()
for four_bits in ("false", "true", "false"):
    config = load_config("demo.yaml", [f"language.load_in_4bit={four_bits}"])
    model = build_model(config, load_tokenizer(config.language.path))
    layer = model.language.get_base_model().model.layers[0].self_attn.q_proj
    print(type(layer).__module__, type(layer.base_layer).__name__, "bitsandbytes" in sys.modules)
"""


@needs_bitsandbytes
def test_only_a_model_in_four_bits_imports_bitsandbytes_and_peft_then_knows_its_layers():
    done = run(MODEL)
    assert (done.returncode, done.stderr) == (0, "")
    before, four_bits, after = (line.split() for line in done.stdout.splitlines())
    assert before[1:] == ["Linear", "False"] and not before[0].endswith("bnb")
    assert four_bits == ["peft.tuners.lora.bnb", "Linear4bit", "True"]
    assert after[:2] == before[:2]


def test_peft_is_imported_in_one_place():
    """Anywhere else it might come first, and bring bitsandbytes."""
    found = {
        file.relative_to(REPO).as_posix()
        for file in REPO.rglob("*.py")
        if re.search(r"^\s*(?:from|import) peft\b", file.read_text(encoding="utf-8"), re.M)
    }
    assert found == {"model/plain_peft.py"}


def test_looking_for_a_package_does_not_import_it():
    code = "import sys; from common.optional import is_installed; is_installed('yaml'); print('yaml' in sys.modules)"
    assert run(code).stdout.split() == ["False"] and importlib.util.find_spec("yaml")
