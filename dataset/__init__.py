"""From annotations and image files to batches: preparing, prompts, images, message trees, batches, shards, streams.
May import common, settings and qwen.tokenizer."""
