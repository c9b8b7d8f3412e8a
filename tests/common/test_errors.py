"""Every error is one line."""

from __future__ import annotations

from common.errors import UserError


def test_a_message_is_one_line_whatever_goes_into_it():
    assert str(UserError("a\nb\r\nc\u2028d\ud800")) == r"a b c d\ud800"
