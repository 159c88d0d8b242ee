"""Records check themselves."""

import pytest

import conditional_adapters as ca


@pytest.mark.parametrize(
    "settings, message",
    [
        pytest.param(
            {"model_types": "bert"},
            "non-empty tuple of names, got 'bert'",
            marks=pytest.mark.compile,  # the shape checks would come first
        ),
        ({"model_types": ("x",), "num_prefix_tokens": -1}, "at least 0, got -1"),
        ({"model_types": ("x",), "carried_outputs": {0: "y"}}, "position 0 holds the hidden"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(settings, message) -> None:
    with pytest.raises(ca.ConfigError, match=message):
        ca.ArchitectureSpec(layers="layers", **settings)


@pytest.mark.compile  # the shape checks would come first
def test_the_former_name_of_a_mask_role_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="'floor' is called 'minimum'"):
        spec = ca.ArchitectureSpec(model_types=("x",), layers="layers", mask_role="floor")
    assert spec.mask_role == "minimum"
