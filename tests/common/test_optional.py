"""Optional packages stay out of a process, and off stderr, until a run asks for them."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from common.optional import hidden, is_installed
from tests.helpers.processor import run_on_processor

needs_bitsandbytes = pytest.mark.skipif(not is_installed("bitsandbytes"), reason="bitsandbytes is not installed")


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
    """The fault that the other tests guard against: where it does not show, they would prove nothing."""
    assert "kernels" in run_on_processor("import bitsandbytes", feature=True).stderr
    assert run_on_processor("import bitsandbytes", feature=False).stderr == ""


@needs_bitsandbytes
@pytest.mark.parametrize("feature", [True, False])
def test_bitsandbytes_prints_nothing_where_a_run_asks_for_it(feature):
    code = "from common.optional import import_bitsandbytes; print(import_bitsandbytes().nn.Linear4bit.__name__)"
    done = run_on_processor(code, feature)
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["Linear4bit"])


def test_looking_for_a_package_does_not_import_it():
    code = "import sys; from common.optional import is_installed; is_installed('yaml'); print('yaml' in sys.modules)"
    assert run_on_processor(code).stdout.split() == ["False"] and importlib.util.find_spec("yaml")
