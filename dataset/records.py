"""What everything that reads records shares: the error of a record, and the names of JSON's types in messages."""

from __future__ import annotations

import re

PLACEHOLDER = "<image>"  # the mark for an image in a question

KINDS = {  # what JSON gives, for messages
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell half a character, UTF-8 cannot hold it


class RecordError(ValueError):
    """A record that cannot be used; the message is the reason, in one line."""
