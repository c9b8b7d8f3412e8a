"""How sure a mean of scores is, and whether one is clearly above another."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

LEVEL = 0.5 * math.erfc(2 / math.sqrt(2))  # 0.0228: a normal variable is above two standard errors so often by chance


def clustered_mean(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float]:
    """The mean and its standard error, clustered by group: questions about one image are not independent.

    The error of a single group is infinite: it says nothing about how another group would score.
    """
    mean = sum(values) / len(values)
    deviation: dict[Hashable, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        deviation[group] += value - mean
    count = len(deviation)
    if count < 2:
        return mean, math.inf
    return mean, math.sqrt(count / (count - 1) * sum(x * x for x in deviation.values())) / len(values)


def paired_difference(
    scores: Sequence[float], others: Sequence[float], groups: Sequence[Hashable]
) -> tuple[float, float]:
    """Mean of ``scores`` less mean of ``others``, which score the same questions, and its standard error.

    The error is that of the paired differences, clustered by group.
    """
    return clustered_mean([a - b for a, b in zip(scores, others, strict=True)], groups)


def clearly_above(difference: float, error: float) -> bool:
    """Whether a difference is more than two standard errors above zero."""
    return difference > 0 and difference > 2 * error


def finite(number: float) -> float | None:
    """None for infinity, which JSON does not have."""
    return number if math.isfinite(number) else None


def chance_probability(difference: float, error: float, groups: int) -> float:
    """How often a difference so many standard errors above zero comes by chance: Student's t, ``groups`` - 1 degrees.

    By Wallace's normal approximation (1959), within 0.001 of the exact value from five degrees of freedom on.
    """
    if difference <= 0 or not math.isfinite(error):
        return 1.0
    if error == 0:
        return 0.0
    degrees, t = groups - 1, difference / error
    normal = (8 * degrees + 1) / (8 * degrees + 3) * math.sqrt(degrees * math.log1p(t * t / degrees))
    return 0.5 * math.erfc(normal / math.sqrt(2))


def holm_levels(probabilities: Mapping[str, float], level: float = LEVEL) -> dict[str, float]:
    """For each of several tests, the level that its probability must be below (Holm 1979).

    Of ten models that do not look, one is above the baselines by chance; so is one type of ten. The test with the
    smallest probability must be below level / n, the next below level / (n - 1), and so on up to the first that fails:
    the others have its level.
    """
    levels: dict[str, float] = {}
    ordered = sorted(probabilities, key=lambda name: probabilities[name])
    allowed, failed = 0.0, False
    for rank, name in enumerate(ordered):
        if not failed:
            allowed = level / (len(ordered) - rank)
            failed = probabilities[name] >= allowed
        levels[name] = allowed
    return levels
