"""Training: the loop, optimiser and schedule, a step's batches, what a resumed run needs, several processes, logs.
May import common, settings, dataset, model, visual and qwen."""
