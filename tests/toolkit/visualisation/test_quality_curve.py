"""The curve has the numbers it was given."""

import io

import pytest

from conditional_adapters.errors import ConfigError
from conditional_adapters.toolkit.visualisation import plot_quality_curve

FACTORS, ACCURACIES = [1.0, 2.0, 3.0, 8.0], [0.97, 0.975, 0.96, 0.9]
SPEED, FLOPS = [1.0, 1.9, 2.6, 5.0], [1.0, 2.0, 2.9, 7.0]
INTERVALS = [(0.0, 0.0), (-0.01, 0.02), (-0.03, 0.01), (-0.1, -0.04)]


def lines(axes) -> dict:
    return {line.get_label(): line for line in axes.lines}


def test_all_numbers_are_drawn_where_they_belong() -> None:
    figure = plot_quality_curve(
        FACTORS, ACCURACIES, SPEED, FLOPS, intervals=INTERVALS, max_drop=0.5, chosen=2.0,
        caption="$\\broken{$ 100 %",
    )  # fmt: skip
    figure.savefig(io.BytesIO(), format="png")
    above, below = figure.axes
    drawn = lines(above)
    assert list(drawn["accuracy"].get_xdata()) == FACTORS
    assert list(drawn["accuracy"].get_ydata()) == pytest.approx([97, 97.5, 96, 90])
    assert set(drawn["0.5 points below r = 1"].get_ydata()) == {96.5}
    assert "chosen: r = 2" in drawn
    assert any(set(line.get_xdata()) == {2.0} for line in above.lines)
    (bars,) = above.collections
    ends = [(x, low, high) for (x, low), (_, high) in bars.get_segments()]
    expected = [(2, 96, 99), (3, 94, 98), (8, 87, 93)]
    assert [tuple(end) for end in ends] == [pytest.approx(e) for e in expected]
    drawn = lines(below)
    assert list(drawn["speed-up, measured"].get_ydata()) == SPEED
    assert list(drawn["FLOP ratio, counted"].get_ydata()) == FLOPS
    assert [tick.get_text() for tick in below.get_xticklabels()] == ["1", "2", "3", "8"]


def test_errors_may_rise_where_accuracy_may_fall() -> None:
    above, _ = plot_quality_curve(
        FACTORS, ACCURACIES, SPEED, FLOPS, max_drop=2, metric="wer", is_error=True
    ).axes
    assert above.get_ylabel() == "wer in %"
    assert set(lines(above)["2 points above r = 1"].get_ydata()) == {99}


def test_marks_are_left_out_where_nothing_was_chosen() -> None:
    above, _ = plot_quality_curve(FACTORS, ACCURACIES, SPEED, FLOPS).axes
    assert list(lines(above)) == ["accuracy"]
    assert not above.collections


@pytest.mark.parametrize(
    "change, message",
    [({"factors": [1.0]}, "1 factors"), ({"speed_ups": SPEED[:2]}, "2 speed_ups")],
)
def test_a_value_is_needed_for_every_factor(change, message) -> None:
    values = {
        "factors": FACTORS, "qualities": ACCURACIES, "speed_ups": SPEED, "flop_ratios": FLOPS,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        plot_quality_curve(**{**values, **change})
