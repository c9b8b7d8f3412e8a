"""export.py writes, checks and asks; its mistakes are in tests/test_start.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from export import parse_arguments
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onnx", "--dtype", "int8"], "--dtype int8: needs --check N"),
        (["--keep-first-patch"], "--keep-first-patch: the format hf leaves the first patch out"),
        (["--format", "gguf", "--dtype", "bf16"], "--dtype bf16: the format gguf takes f16 or f32\n"),
        (["--dtype", "fp16"], "--dtype fp16: the format hf takes bf16 or fp32: fp16 ends at 65,504"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, message, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--checkpoint", "a", "--output", "b", *options])
    assert message in capsys.readouterr().err
