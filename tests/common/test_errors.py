"""Every error is one line."""

from __future__ import annotations

from common.errors import UserError


def test_a_message_is_one_line_and_can_be_encoded():
    assert str(UserError("a\nb\r\nc\u2028d\ud800")) == r"a b c d\ud800"
