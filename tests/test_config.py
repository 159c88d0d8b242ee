import json

import pytest

import conditional_adapters as ca

BAD_VALUES = [
    ("reduction_factor", 0.5, r"reduction_factor must be a number of at least 1 .*got 0\.5"),
    ("reduction_factor", float("nan"), "got nan"),
    ("reduction_factor", True, "got True"),
    ("reduction_factor", "4", "got '4'"),
    ("reduction_factor", (), r"non-empty tuple of numbers, got \(\)"),
    ("reduction_factor", (4, 0), "got 0"),
    ("adapter_dim", 0, "adapter_dim must be a whole number of at least 1, got 0"),
    ("adapter_dim", 1.5, r"got 1\.5"),
    ("adapter_activation", "mish", "one of 'relu', .*got 'mish'"),
    ("attention_mode", "all", "one of 'k_to_k', 'k_to_all', got 'all'"),
    ("epsilon", 0, r"epsilon must be a number above 0 .*got 0"),
    ("epsilon", float("inf"), "got inf"),
    ("soft_topk", "sinkhorn", "one of 'exact', 'iterative', got 'sinkhorn'"),
    ("gate", "hard", "one of 'weighted', 'straight_through', got 'hard'"),
    ("router_kind", "best", "'strided', got 'best'"),
    ("dense_layers", ("0",), r"dense_layers must be a tuple of layer numbers"),
    ("adapt_decoder", 1, "adapt_decoder must be True or False, got 1"),
    ("modules_to_save", "classifier", r"modules_to_save must be None or a tuple"),
]


@pytest.mark.parametrize("field, value, message", BAD_VALUES)
def test_a_bad_value_is_refused_with_field_value_and_range(field, value, message) -> None:
    with pytest.raises(ca.ConfigError, match=message) as error:
        ca.ConditionalAdapterConfig(**{field: value})
    assert field in str(error.value)


def test_the_configuration_survives_json() -> None:
    config = ca.ConditionalAdapterConfig(
        reduction_factor=(2, 4.5), dense_layers=(0, -1), modules_to_save=("classifier",)
    )
    text = json.dumps(config.to_dict())
    assert ca.ConditionalAdapterConfig.from_dict(json.loads(text)) == config


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ca.ConfigError, match="Did you mean 'reduction_factor'"):
        ca.ConditionalAdapterConfig.from_dict({"reduction_facter": 4})


def test_an_elastic_adapter_runs_at_its_first_factor_outside_training() -> None:
    config = ca.ConditionalAdapterConfig(reduction_factor=(8, 2))
    assert config.default_reduction_factor == 8
    assert config.elastic_factors == (8, 2)
    assert ca.ConditionalAdapterConfig(reduction_factor=3).elastic_factors == ()


def test_the_configuration_is_immutable_and_hashable() -> None:
    config = ca.ConditionalAdapterConfig()
    with pytest.raises(AttributeError):
        config.epsilon = 1.0
    assert hash(config) == hash(ca.ConditionalAdapterConfig())
