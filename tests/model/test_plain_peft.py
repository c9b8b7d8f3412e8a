"""peft without bitsandbytes, and without its warnings."""

from __future__ import annotations

import re

import pytest

from common.optional import is_installed
from tests.helpers.processor import run_on_processor
from tests.helpers.tiny import REPO

needs_bitsandbytes = pytest.mark.skipif(not is_installed("bitsandbytes"), reason="bitsandbytes is not installed")

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
    done = run_on_processor(MODEL)
    assert (done.returncode, done.stderr) == (0, "")
    before, four_bits, after = (line.split() for line in done.stdout.splitlines())
    assert before[1:] == ["Linear", "False"] and not before[0].endswith("bnb")
    assert four_bits == ["peft.tuners.lora.bnb", "Linear4bit", "True"]
    assert after[:2] == before[:2]


def test_peft_is_imported_in_one_place():
    """Anywhere else it might come first, and bring bitsandbytes."""
    tops = [path for path in REPO.iterdir() if not path.name.startswith(".")]  # not the virtual environment
    files = [file for top in tops for file in ([top] if top.suffix == ".py" else top.rglob("*.py"))]
    pattern = re.compile(r"^\s*(?:from|import) peft\b", re.M)
    found = {file.relative_to(REPO).as_posix() for file in files if pattern.search(file.read_text(encoding="utf-8"))}
    assert found == {"model/plain_peft.py"}


WARNED = """
from model.model import build_model, quiet_libraries
from model.plain_peft import get_peft_model_state_dict
from qwen.tokenizer import load_tokenizer
from settings import load_config
quiet_libraries()
for overrides in (["lora.lora_bias=true"], ["lora.target_modules=[q_proj]", "lora.modules_to_save=[lm_head]"]):
    config = load_config("demo.yaml", overrides)
    model = build_model(config, load_tokenizer(config.language.path))
    get_peft_model_state_dict(model.language)
    model.merge_adapters()
"""


def test_what_peft_warns_of_does_not_reach_stderr():
    done = run_on_processor(WARNED)
    assert (done.returncode, done.stderr) == (0, "")
