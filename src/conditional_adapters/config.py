"""Configuration of conditional adapters: a frozen record that checks its values."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, get_args

from .errors import ConfigError
from .modules.adapter import AttentionMode
from .modules.router import Gate, RouterKind
from .ops import ACTIVATIONS, SoftTopKMethod


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionalAdapterConfig:
    """Configuration of the adapters, routers and attention that `attach` adds to a model.

    Attributes:
        reduction_factor: r, a number >= 1: each conditional layer processes `ceil(n / r)` of n
            tokens. 1 processes every token (a dense parallel adapter). A tuple makes an elastic
            adapter: training samples a value for each forward pass, inference uses the first.
        adapter_dim: Width of the adapter's bottleneck, >= 1.
        adapter_activation: Name of the adapter's non-linearity.
        attention_mode: "k_to_k": selected tokens attend to selected tokens. "k_to_all": they
            attend to all tokens; not available for every family.
        epsilon: Temperature of the soft top-k, > 0, in units of the router's logits.
        soft_topk: "exact" or the paper's "iterative" (see `soft_topk`).
        gate: "weighted" multiplies the heavy branch's update by the routing weight;
            "straight_through" uses 1 forward and the weight's gradient backward.
        dense_layers: Indices of encoder layers that process every token and only get an adapter;
            negative ones count from the end.
        adapt_decoder: Add parallel adapters to the decoder of an encoder-decoder model. The
            decoder stays dense.
        train_norms: Train the layer norms. The adapter owns the trained copies.
        modules_to_save: Names of other modules that are trained and saved with the adapter. None
            means the task head of a classification or question-answering model.
        router_kind: "learned", or a baseline that ignores the content: "random", "first",
            "strided".

    Raises:
        ConfigError: If a value is outside its range.

    Source:
        Reduction factor, router, soft top-k and both attention modes are the paper's
        (arXiv:2304.04947). The defaults are our choice (docs/decisions/0003).
    """

    reduction_factor: float | tuple[float, ...] = 4.0
    adapter_dim: int = 64
    adapter_activation: str = "relu"
    attention_mode: AttentionMode = "k_to_k"
    epsilon: float = 1.0
    soft_topk: SoftTopKMethod = "exact"
    gate: Gate = "weighted"
    dense_layers: tuple[int, ...] = ()
    adapt_decoder: bool = True
    train_norms: bool = True
    modules_to_save: tuple[str, ...] | None = None
    router_kind: RouterKind = "learned"

    def __post_init__(self) -> None:
        # JSON has lists only; tuples make the record hashable.
        for name in ("reduction_factor", "dense_layers", "modules_to_save"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        factors, saved = self.reduction_factor, self.modules_to_save
        allowed = "a number or a non-empty tuple of numbers"
        _check(factors != (), "reduction_factor", factors, allowed)
        for factor in factors if isinstance(factors, tuple) else (factors,):
            check_reduction_factor(factor)
        ranges = {
            "adapter_dim": (
                _is_int(self.adapter_dim) and self.adapter_dim >= 1,
                "a whole number of at least 1",
            ),
            "epsilon": (
                _is_number(self.epsilon) and 0 < self.epsilon < float("inf"),
                "a number above 0 (0.02 to 1 is usual)",
            ),
            "dense_layers": (
                isinstance(self.dense_layers, tuple) and all(map(_is_int, self.dense_layers)),
                "a tuple of layer numbers such as (0, -1)",
            ),
            "modules_to_save": (
                saved is None
                or (isinstance(saved, tuple) and all(isinstance(s, str) for s in saved)),
                "None or a tuple of module names such as ('classifier',)",
            ),
            "adapt_decoder": (isinstance(self.adapt_decoder, bool), "True or False"),
            "train_norms": (isinstance(self.train_norms, bool), "True or False"),
        }
        for name, (is_valid, allowed) in ranges.items():
            _check(is_valid, name, getattr(self, name), allowed)
        choices: dict[str, tuple[str, ...]] = {
            "adapter_activation": tuple(ACTIVATIONS),
            "attention_mode": get_args(AttentionMode),
            "soft_topk": get_args(SoftTopKMethod),
            "gate": get_args(Gate),
            "router_kind": get_args(RouterKind),
        }
        for name, names in choices.items():
            value = getattr(self, name)
            _check(value in names, name, value, "one of " + ", ".join(map(repr, names)))

    @property
    def elastic_factors(self) -> tuple[float, ...]:
        """The reduction factors that training samples from; empty if there is only one."""
        factors = self.reduction_factor
        return tuple(map(float, factors)) if isinstance(factors, tuple) else ()

    @property
    def default_reduction_factor(self) -> float:
        """The reduction factor outside training."""
        return self.elastic_factors[0] if self.elastic_factors else float(self.reduction_factor)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ConditionalAdapterConfig":
        """Make a configuration from `to_dict`'s values; missing fields take their defaults.

        Args:
            values: Field names and values.

        Returns:
            The checked configuration.

        Raises:
            ConfigError: If a name is unknown or a value outside its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known fields: {known}."
                raise ConfigError(f"{name!r} is not a field of ConditionalAdapterConfig. {hint}")
        return cls(**values)


def check_reduction_factor(value: object) -> float:
    """Return a single reduction factor as a float.

    Args:
        value: The candidate.

    Returns:
        The factor.

    Raises:
        ConfigError: If it is not a finite number of at least 1.
    """
    is_valid = _is_number(value) and 1 <= value < float("inf")  # type: ignore[operator]
    _check(is_valid, "reduction_factor", value, "a number of at least 1 (1 processes every token)")
    return float(value)  # type: ignore[arg-type]


def _check(is_valid: bool, name: str, value: object, allowed: str) -> None:
    if not is_valid:
        raise ConfigError(f"{name} must be {allowed}, got {value!r}. Change {name} in the config.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
