"""The exceptions of this library.

    ConditionalAdapterError
    ├── ConfigError                    (ValueError)           a setting outside its range
    ├── RoutingError                   (ValueError)           an operator got impossible input
    ├── AttachmentError                (RuntimeError)         attach or detach at the wrong moment
    ├── UnsupportedArchitectureError   (NotImplementedError)  no record for this model
    ├── CheckpointError                (ValueError)           an adapter is missing or unfit
    ├── AssetError                     (RuntimeError)         packaged weights or data unusable
    └── DataError                      (ValueError)           a data set or a row is unusable

Every message says what is wrong with the value, what is allowed, and what to do.
"""


class ConditionalAdapterError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(ConditionalAdapterError, ValueError):
    """A configuration field has a value outside its range."""


class RoutingError(ConditionalAdapterError, ValueError):
    """A routing operator got input it cannot work on."""


class AttachmentError(ConditionalAdapterError, RuntimeError):
    """A model is not in the state that the call needs (attached twice, not attached, …)."""


class UnsupportedArchitectureError(ConditionalAdapterError, NotImplementedError):
    """No architecture record fits the model."""


class CheckpointError(ConditionalAdapterError, ValueError):
    """A saved adapter cannot be found or published, is damaged, or does not fit the model."""


class AssetError(ConditionalAdapterError, RuntimeError):
    """Packaged weights or data are missing or not the ones we know."""


class DataError(ConditionalAdapterError, ValueError):
    """A data set, or a row of it, cannot be used."""
