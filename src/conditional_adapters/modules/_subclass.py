"""Change the class of one module instance to a subclass of its own class, and back.

Classes such as `ConditionalBertLayer` are created once per pair of classes and cached, as in
torch's parametrisations. The module keeps its parameters, its path in the model, its hooks and its
`isinstance` relations, so code that finds layers by class or by name continues to work.

The new class keeps the `__name__` of the old one, because device maps and FSDP's wrapping compare
class names. `print(model)` shows the `__qualname__`, which has a prefix.
"""

from typing import Any, TypeVar, cast

from torch import nn

MixinT = TypeVar("MixinT", bound="DynamicSubclass")


class DynamicSubclass(nn.Module):
    """Base of the mixins. Modules can be printed, pickled and copied."""

    coda_prefix: str | None = None  # of the class name; None: derived from the mixin's name
    coda_mixin: type[nn.Module]
    coda_original_class: type[Any]

    def coda_restore(self, training: bool) -> None:
        """Prepare for `restore`; `training` is the mode of the model."""

    def _get_name(self) -> str:
        return type(self).__qualname__

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401
        # The class cannot be imported by name, so it is created again from its two parents.
        function, arguments, *rest = cast("tuple[Any, ...]", super().__reduce_ex__(protocol))
        if arguments and arguments[0] is type(self):
            function, arguments = _new, (self.coda_mixin, self.coda_original_class)
        return (function, arguments, *rest)


_SUBCLASSES: dict[tuple[type, type], type] = {}


def subclass_of(mixin: type[Any], original: type[Any]) -> type[Any]:
    """Return the dynamic subclass of `mixin` and `original`, which is created once."""
    if (mixin, original) not in _SUBCLASSES:
        prefix = mixin.coda_prefix or mixin.__name__.removesuffix("Layer").removesuffix("Module")
        namespace = {
            "__module__": mixin.__module__,
            "__qualname__": f"{prefix}{original.__name__}",
            "__doc__": mixin.__doc__,
            "coda_mixin": mixin,
            "coda_original_class": original,
        }
        _SUBCLASSES[mixin, original] = type(original.__name__, (mixin, original), namespace)
    return _SUBCLASSES[mixin, original]


def add_mixin(module: nn.Module, mixin: type[MixinT]) -> MixinT:
    """Change the class of `module` to its dynamic subclass with `mixin`; return the same object."""
    module.__class__ = subclass_of(mixin, type(module))
    return cast("MixinT", module)


def restore(module: nn.Module, training: bool) -> None:
    """Undo every `add_mixin` of a module, and delete its attributes with the prefix `coda_`."""
    while isinstance(module, DynamicSubclass):
        module.coda_restore(training)
        for name in [*vars(module), *module._modules]:
            if name.startswith("coda_"):
                delattr(module, name)
        module.__class__ = module.coda_original_class


def remove_mixin(module: nn.Module, mixin: type[DynamicSubclass]) -> None:
    """Undo `add_mixin` with `mixin` or a subclass of it; keep all other mixins."""
    others, original = [], type(module)
    while issubclass(original, DynamicSubclass):
        others.append(original.coda_mixin)
        original = original.coda_original_class
    for other in reversed(others):
        if not issubclass(other, mixin):
            original = subclass_of(other, original)
    module.__class__ = original


def _new(mixin: type[Any], original: type[Any]) -> Any:  # noqa: ANN401
    cls: Any = subclass_of(mixin, original)
    return cls.__new__(cls)
