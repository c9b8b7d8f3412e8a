"""A Python process on a processor with AVX512-BF16, or without, whatever this machine has."""

from __future__ import annotations

import os
import subprocess
import sys

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


def run_on_processor(code: str, feature: bool = True) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONWARNINGS": "default::UserWarning"}
    code = PROCESSOR.format(feature=feature) + code
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True, timeout=300
    )
