"""The whole model (tower, projector, language model), what of it is trained, its checkpoints and its memory.
May import common, settings, dataset, visual and qwen."""
