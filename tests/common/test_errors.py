"""Every error is one line."""

from __future__ import annotations

import pytest

from common.errors import UserError, exit_status


def test_a_message_is_one_line_and_can_be_encoded():
    assert str(UserError("a\nb\r\nc\u2028d\ud800")) == r"a b c d\ud800"


def fail(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("run", "status", "printed"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: fail(UserError("no such file")), 2, "error: no such file\n"),
        (lambda: fail(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
)
def test_a_command_ends_with_a_status_and_one_line(capsys, run, status, printed):
    assert exit_status(run, "interrupted") == status
    captured = capsys.readouterr()
    assert captured.err == printed and captured.out == ""


def test_a_fault_of_the_code_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0, "interrupted")
