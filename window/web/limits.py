"""What a page accepts from a browser. Every refusal is a sentence; nothing here depends on gradio."""

from __future__ import annotations

MOST_BYTES = 50_000_000  # of one file; the largest photos of phones have 30 MB
MOST_PICTURES = 16  # of one conversation
MOST_PIXELS = 400_000_000  # of all conversations together: 1.2 GB in RGB
MOST_SESSIONS = 64
MOST_CHARACTERS = 20_000  # of a question or a system prompt: ten times what any max_length here has room for
MOST_LINES = 500  # of what is shown of a conversation
KEPT_S = 600  # how long a closed tab's conversation is kept: a laptop that wakes up finds it again
