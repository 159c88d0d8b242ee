"""Exceptions of the library.

    ConditionalAdapterError
    ├── ConfigError                    (ValueError)           a setting is out of range
    ├── RoutingError                   (ValueError)           invalid input of a routing operator
    ├── AttachmentError                (RuntimeError)         the model is in the wrong state
    ├── UnsupportedArchitectureError   (NotImplementedError)  no architecture record for the model
    ├── CheckpointError                (ValueError)           an adapter is missing or does not fit
    ├── AssetError                     (RuntimeError)         packaged weights or data are unusable
    └── DataError                      (ValueError)           a data set or an example is unusable

Every message says what is wrong with the value, what is allowed, and what to do.
"""


class ConditionalAdapterError(Exception):
    """Base class of all exceptions of the library."""


class ConfigError(ConditionalAdapterError, ValueError):
    """A setting is out of range."""


class RoutingError(ConditionalAdapterError, ValueError):
    """The input of a routing operator is invalid."""


class AttachmentError(ConditionalAdapterError, RuntimeError):
    """A model is in the wrong state for the call: already attached, or not attached."""


class UnsupportedArchitectureError(ConditionalAdapterError, NotImplementedError):
    """The library has no architecture record for the model."""


class CheckpointError(ConditionalAdapterError, ValueError):
    """A saved adapter is missing or damaged, does not fit the model, or cannot be published."""


class AssetError(ConditionalAdapterError, RuntimeError):
    """Packaged weights or data are missing or have an unexpected checksum."""


class DataError(ConditionalAdapterError, ValueError):
    """A data set or an example is unusable."""
