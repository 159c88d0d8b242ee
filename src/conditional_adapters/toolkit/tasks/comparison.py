"""Differences of figures that are ratios of sums over rows: error rates, F1, means.

Each row has a share of the numerator and of the denominator, so the figure of any part of the rows
is known without counting again. That is what resampling needs.
"""

import numpy as np
from jaxtyping import Float, Int

from ...errors import ConfigError

_RESAMPLES, _BATCH = 9_999, 500


def ratio_of_sums(tally: Float[np.ndarray, "rows 2"]) -> float:
    """Divide the sum of the first column by that of the second.

    Args:
        tally: What each row adds to both sums.

    Returns:
        The ratio; 0 where the second sum is 0.
    """
    above, below = tally.sum(0)
    return float(above / below) if below else 0.0


def ratio_difference_interval(
    tally: Float[np.ndarray, "rows 2"], reference: Float[np.ndarray, "rows 2"]
) -> tuple[float, float]:
    """Bound the difference of two ratios over the same rows, with 95 % confidence.

    Rows are drawn with replacement, 9,999 times, always the same ones for both (percentile
    bootstrap, scipy). The same call gives the same interval.

    Args:
        tally: What each row adds to the sums of the model in question; two rows or more.
        reference: The same of the model that it is compared with.

    Returns:
        Lower and upper end. Both are 0 where no row differs, which few rows do not prove.

    Raises:
        ConfigError: If there are fewer than two rows.
    """
    from scipy.stats import bootstrap

    if len(tally) < 2:
        raise ConfigError(f"an interval needs at least 2 rows, got {len(tally)}. Give more rows.")

    def difference(drawn: Int[np.ndarray, "resamples rows"], axis: int = -1) -> np.ndarray:
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
    tally: Float[np.ndarray, "rows 2"], drawn: Int[np.ndarray, "*resamples rows"], axis: int
) -> np.ndarray:
    above, below = tally[drawn, 0].sum(axis), tally[drawn, 1].sum(axis)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below != 0))
