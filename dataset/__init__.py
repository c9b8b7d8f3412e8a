"""From annotations and image files to batches: preparing, prompts, images, message trees, batches, shards, streams; and
when two answers are the same. May import common, settings and qwen.tokenizer."""
