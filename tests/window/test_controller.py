"""PLACEHOLDER"""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.tiny import REPO


def test_the_window_opens_before_torch_is_imported():
    code = "import sys; import window.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0
