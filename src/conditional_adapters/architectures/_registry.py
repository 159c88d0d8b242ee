"""Registry of architecture records by `config.model_type`."""

from ..errors import ConfigError, UnsupportedArchitectureError
from ..modules import ArchitectureSpec

_SPECS: dict[str, ArchitectureSpec] = {}
_COMPOSITES: dict[str, str] = {}
_REFUSED: dict[str, str] = {}


def register_architecture(spec: ArchitectureSpec) -> ArchitectureSpec:
    """Make `attach` support a family of models.

    Args:
        spec: The record.

    Returns:
        The same record.

    Raises:
        ConfigError: If one of its model types has a record already.
    """
    for model_type in spec.model_types:
        if model_type in _SPECS:
            raise ConfigError(
                f"model type {model_type!r} is registered already. A model type has one record; "
                "choose another config.model_type for your own model."
            )
    _SPECS.update(dict.fromkeys(spec.model_types, spec))
    return spec


def register_composite(model_type: str, path: str) -> None:
    """Register a model whose encoder, at `path`, is a model with its own type and record."""
    _COMPOSITES[model_type] = path


def refuse_architecture(model_types: tuple[str, ...], reason: str) -> None:
    """Register the reason why models cannot run on selected tokens, and alternatives.

    Args:
        model_types: The `config.model_type` of each. Records that users register take precedence.
        reason: Complete sentences that follow a colon.
    """
    _REFUSED.update(dict.fromkeys(model_types, reason))


def composite_path(model_type: str) -> str | None:
    """Return the path of the encoder in a composite model; None if it is not composite."""
    return _COMPOSITES.get(model_type)


def supported_architectures() -> tuple[str, ...]:
    """Return every `config.model_type` that `attach` supports, sorted."""
    return tuple(sorted(_SPECS | _COMPOSITES))


def refused_architectures() -> dict[str, str]:
    """Return the refused model types and the reasons."""
    return {t: reason for t, reason in _REFUSED.items() if t not in _SPECS}


def architecture_of(model_type: str) -> ArchitectureSpec:
    """Return the record of a `config.model_type`; raise `UnsupportedArchitectureError` if none."""
    reason = refused_architectures().get(model_type)
    if reason is not None:
        raise UnsupportedArchitectureError(
            f"model type {model_type!r} cannot run on a subset of its tokens: {reason}"
        )
    if model_type not in _SPECS:
        raise UnsupportedArchitectureError(
            f"no architecture record for model type {model_type!r}. Known types: "
            f"{', '.join(supported_architectures())}. Describe your model in about ten lines and "
            "call register_architecture(spec); see docs/add-an-architecture.md."
        )
    return _SPECS[model_type]
