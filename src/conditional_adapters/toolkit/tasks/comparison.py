"""Comparison of metrics that are ratios of sums over examples: error rates, F1, means.

A tally has the numerator and the denominator of each example, so the metric of any resample of the
examples is one division.
"""

import numpy as np
from jaxtyping import Float, Int

from ...errors import ConfigError

_RESAMPLES, _BATCH = 9_999, 500


def ratio_of_sums(tally: Float[np.ndarray, "examples 2"]) -> float:
    """Divide the sum of the first column by the sum of the second."""
    above, below = tally.sum(0)
    return float(above / below) if below else 0.0


def ratio_difference_interval(
    tally: Float[np.ndarray, "examples 2"], reference: Float[np.ndarray, "examples 2"]
) -> tuple[float, float]:
    """95 % confidence interval of the difference of two ratios over the same examples.

    A paired percentile bootstrap (scipy) with 9,999 resamples and a fixed seed.

    Args:
        tally: Numerator and denominator of each example for the model; at least two examples.
        reference: The same for the reference model.

    Returns:
        Lower and upper bound. Both are 0 if no example differs, which proves little if there are
        few examples.

    Raises:
        ConfigError: If there are fewer than two examples.
    """
    from scipy.stats import bootstrap

    if len(tally) < 2:
        raise ConfigError(f"an interval needs at least 2 rows, got {len(tally)}. Give more rows.")

    def difference(drawn: Int[np.ndarray, "resamples examples"], axis: int = -1) -> np.ndarray:
        return np.asarray(_ratios(tally, drawn, axis) - _ratios(reference, drawn, axis))

    found = bootstrap(
        (np.arange(len(tally)),),
        difference,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        method="percentile",
        random_state=0,
    ).confidence_interval
    return float(found.low), float(found.high)


def _ratios(
    tally: Float[np.ndarray, "examples 2"], drawn: Int[np.ndarray, "*resamples examples"], axis: int
) -> np.ndarray:
    above, below = tally[drawn, 0].sum(axis), tally[drawn, 1].sum(axis)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below != 0))
