"""Scoring a checkpoint: the questions, the answers, their scores, the baselines, the verdict, the report.
May import common, settings, dataset, model, answering and training.distributed."""
