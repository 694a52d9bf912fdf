"""The editable file: a gene may change the rate, or anything else."""

RATE = 0.5


def train(batches):
    """Return what was learnt from an iterable of numbers."""
    learnt = 0.0
    for batch in batches:
        learnt += RATE * (batch - learnt)
    return learnt


def predict(learnt, x):
    """Return the model's answer at x."""
    return learnt * x
