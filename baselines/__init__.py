"""The systems of 2015: models that choose among the commonest answers, as yardsticks for the others.
May import common, settings, dataset, model, training and visual; answering opens their checkpoints."""
