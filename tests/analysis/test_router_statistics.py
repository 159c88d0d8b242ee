import math

import pytest
import torch

import conditional_adapters as ca
from conditional_adapters import RoutingDecision, record_routing
from conditional_adapters.analysis import router_statistics
from tests.helpers.tiny_models import TINY_MODELS, pad_text


def decision(
    indices: list[list[int]],
    weights: list[list[float]],
    logits: list[list[float]],
    is_selected: list[list[bool]] | None = None,
) -> RoutingDecision:
    chosen = torch.tensor(indices)
    used = torch.ones_like(chosen, dtype=torch.bool)
    return RoutingDecision(
        chosen,
        torch.tensor(weights),
        used if is_selected is None else torch.tensor(is_selected),
        torch.tensor(logits),
    )


FLAT, STEEP = [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, -9.0, -9.0]


@pytest.mark.parametrize("logits, expected", [(FLAT, 1.0), (STEEP, 0.0)])
def test_entropy_tells_indifference_from_a_hard_choice(logits, expected) -> None:
    layer = decision([[0, 1]], [[0.5, 0.5]], [logits])
    found = router_statistics([layer], epsilon=0.1).selection_entropy
    assert found == pytest.approx(expected, abs=1e-6)


def test_entropy_agrees_with_its_formula() -> None:
    """k = 1 is softmax: its entropy, as a share of ln n."""
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    shares = (logits / 0.5).softmax(-1)
    entropy = -(shares * shares.log()).sum() / math.log(4)
    layer = decision([[2]], [[0.9]], [logits.tolist()])
    found = router_statistics([layer], epsilon=0.5).selection_entropy
    assert found == pytest.approx(entropy.item(), abs=1e-6)


def test_padding_and_rows_without_a_choice_do_not_count_in_the_entropy() -> None:
    logits = [[0.0, 0.0, 0.0, 50.0], STEEP, FLAT]
    used = [[True], [True], [True]]
    layer = decision([[0], [0], [0]], [[1.0]] * 3, logits, used)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True] * 4])
    found = router_statistics([layer], epsilon=1.0, token_mask=mask).selection_entropy
    assert found == pytest.approx(1.0)


def test_overlap_is_the_share_that_the_layer_before_chose_too() -> None:
    weights = [[0.5, 0.5], [0.5, 0.5]]
    layers = [
        decision([[0, 1], [2, 3]], weights, [FLAT, FLAT]),
        None,  # a dense layer between them
        decision([[0, 2], [2, 3]], weights, [FLAT, FLAT]),
        decision([[1, 3], [0, 1]], weights, [FLAT, FLAT]),
    ]
    found = router_statistics(layers, epsilon=1.0).neighbour_overlap
    assert found == pytest.approx((3 / 4 + 0 / 4) / 2)
    assert router_statistics(layers[:2], epsilon=1.0).neighbour_overlap is None


def test_weights_of_unused_slots_do_not_count() -> None:
    used = [[True, True], [True, False]]
    layer = decision([[0, 1], [2, 0]], [[1.0, 0.5], [0.75, 0.0]], [FLAT] * 2, used)
    found = router_statistics([layer], epsilon=1.0)
    assert found.mean_weight == pytest.approx(0.75)
    assert found.saturated_share == pytest.approx(1 / 3)


def test_a_dense_pass_has_no_statistics() -> None:
    assert router_statistics([None, None], epsilon=1.0) is None


@pytest.mark.parametrize("padding", ["none", "right"])
def test_the_record_of_a_model_has_its_statistics_and_its_mask(padding) -> None:
    model = ca.attach(TINY_MODELS["bert"].build("sdpa"), ca.ConditionalAdapterConfig(adapter_dim=4))
    inputs = TINY_MODELS["bert"].inputs()
    if padding == "right":
        inputs = pad_text(inputs, "right")
    with torch.no_grad(), record_routing(model) as routing:
        model(**inputs)
    if padding == "right":
        assert torch.equal(routing.token_mask, inputs["attention_mask"].bool())
    else:
        assert routing.token_mask is None
    found = router_statistics(routing.layers, epsilon=1.0, token_mask=routing.token_mask)
    assert found.selection_entropy > 0.5  # routers at their start have no opinion
    assert 0 < found.mean_weight < 1
