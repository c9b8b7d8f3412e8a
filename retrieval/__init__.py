"""Two towers: pictures are found by words or by another picture, named by labels, and the towers are tuned.
May import common, settings, dataset, model, visual, training, evaluation."""
