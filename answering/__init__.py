"""Asking a trained model: the assistant, its prefix cache and attention maps, conversations and checkpoints to choose.
May import common, settings, dataset and model."""
