"""export.py writes, checks and asks; its mistakes are in tests/test_start.py."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.tiny import REPO


def export(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "export.py", *map(str, arguments)], cwd=REPO, capture_output=True, text=True, encoding="utf-8"
    )


def test_export_writes_checks_and_asks(checkpoint, tmp_path):
    done = export("--checkpoint", checkpoint.parent, "--output", tmp_path / "export", "--dtype", "fp32", "--check", 2)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "ids and pixels equal" in done.stdout and "2 of 2 held-out questions answered the same" in done.stdout
    assert "2 of 2 held-out" in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    again = export("--checkpoint", checkpoint, "--output", tmp_path / "export")
    assert again.returncode == 2 and "exists already; name another folder" in again.stderr
