"""The language models, every dense Qwen, extended to take visual tokens; and their tokenizers.
May import common."""
