"""Where routers start: at tokens whose update a linear map cannot predict."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from conditional_adapters.errors import ConfigError
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.training import start_routers
from tests.helpers.tiny_models._builder import ENCODER


def bert(**settings: object) -> BertModel:
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=40, **ENCODER, initializer_range=0.2))
    return ca.attach(model, ca.ConditionalAdapterConfig(adapter_dim=4, **settings)).eval()


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    ids = torch.randint(40, (count, 4, 24))
    mask = torch.ones_like(ids)
    mask[:, 0, 9:] = 0
    return [{"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]


def routers(model: nn.Module) -> list[torch.Tensor]:
    layers = conditional_layers(model)
    return [layer.coda_part("default").router.weight.detach().clone() for layer in layers]


def states_and_updates(model: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each layer reads and adds, of all tokens that are no padding."""
    ca.set_reduction_factor(model, 1)
    pairs: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for batch in batches():
        with torch.no_grad():
            hidden = model(**batch, output_hidden_states=True).hidden_states
        real = batch["attention_mask"].bool()
        pairs.append([(a[real], (b - a)[real]) for a, b in pairwise(hidden)])
    return [
        tuple(torch.cat(part).double().numpy() for part in zip(*layer, strict=True))
        for layer in zip(*pairs, strict=True)
    ]


def ridge(states: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve ridge regression as least squares of centred data with rows for the penalty."""
    x, y = states - states.mean(0), target - target.mean(0)
    penalty = np.sqrt(1e-2 * x.var(0).mean() * len(x)) * np.eye(x.shape[1])
    weight = np.linalg.lstsq(
        np.vstack([x, penalty]), np.vstack([y, np.zeros((len(penalty), y.shape[1]))]), rcond=None
    )[0]
    return weight, y - x @ weight


def test_routers_start_at_the_direction_that_least_squares_find():
    model = bert()
    explained = start_routers(model, batches())
    started = routers(model)
    seen = states_and_updates(model)
    logs = [np.log((ridge(states, update)[1] ** 2).sum(-1)) for states, update in seen]
    salience = np.mean(logs, axis=0)[:, None]
    for (states, _), weight, share in zip(seen, started, explained, strict=True):
        expected = ridge(states, salience)[0][:, 0]
        scores = states @ expected
        np.testing.assert_allclose(weight.numpy(), expected / scores.std(), rtol=1e-3, atol=1e-5)
        assert 0 < share <= 1


def test_scores_vary_by_one():
    model = bert()
    start_routers(model, batches())
    for (states, _), weight in zip(states_and_updates(model), routers(model), strict=True):
        assert (states @ weight.double().numpy()).std() == pytest.approx(1, rel=1e-3)


def test_nothing_but_the_routers_changes():
    model = bert(reduction_factor=(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    start_routers(model, batches())
    assert model.training
    part = conditional_layers(model)[0].coda_part("default")
    assert part.reduction_factor == 4
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if name.endswith("router.weight")}


def test_padding_does_not_count():
    start_routers(model := bert(), batches())
    plain = routers(model)
    other = batches()
    for batch in other:
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)
    start_routers(model, other)
    for first, second in zip(plain, routers(model), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kind", ["strided", "random", "first"])
def test_routers_without_parameters_are_refused(kind):
    with pytest.raises(ConfigError, match="learned router"):
        start_routers(bert(router_kind=kind), batches())


def test_too_few_tokens_are_refused():
    batch = {"input_ids": torch.ones(1, 1, dtype=torch.int64)}
    with pytest.raises(ConfigError, match="at least 2 tokens"):
        start_routers(bert(), [batch])
