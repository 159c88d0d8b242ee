"""Modules of a conditional model that implement PEFT's interfaces.

PEFT and transformers visit the modules of a model and use two kinds of them:

- *Tuner layers* switch adapters. A conditional model has one for all its layers: the
  `AdapterSwitch`, a module without parameters at the root of the model.
- *Training wrappers* map names of parameters to names in a file. Here these are the modules that
  own an adapter's parameters: the dictionary of adapters in each layer, and the norms and heads
  with their copies. They wrap nothing and rename nothing.

So PEFT finds no parameter by a prefix, and names in files are those of `save_adapter`.
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from ..errors import AttachmentError
from ..model.attach import detach, remove_adapter
from ..model.attachment import adapter_parameters, adapter_parts, get_attachment, switch
from ..model.structure import transformers_model
from ..modules import ConditionalLayer, DynamicSubclass, SwitchableModule
from ..modules._subclass import add_mixin

SWITCH = "conditional_adapters"  # the name of the switch in the model
MERGE_REFUSED = (
    "conditional adapters cannot be merged: the tokens that a layer processes depend on the input, "
    "so no fixed weights compute the same. Keep the adapter, or call unload() for the dense model."
)


@BaseTunerLayer.register
class AdapterSwitch(nn.Module):
    """PEFT tuner layer that switches the adapters of a whole model.

    Args:
        model: The transformers model that has the adapters.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = [model]  # in a list, or it would become a submodule of its own child
        self.active_adapters: list[str] = []
        self.disable_adapters = False
        # Attributes that PEFT reads from every tuner layer.
        self.adapter_layer_names: tuple[str, ...] = ()
        self.other_param_names: tuple[str, ...] = ()
        self.merged_adapters: list[str] = []
        self.merged = False

    @property
    def active_adapter(self) -> list[str]:
        """The active adapters."""
        return self.active_adapters

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate an adapter and make only its parameters trainable."""
        self.activate(adapter_names)
        for name in get_attachment(self._model[0]).configs:
            self.set_requires_grad(name, name in self.active_adapters and not inference_mode)

    def activate(self, adapter_names: str | list[str]) -> None:
        """Activate an adapter without changing which parameters are trainable."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if len(names) > 1:
            raise AttachmentError(
                f"conditional adapters are active one at a time, got {names}. Pass one of them."
            )
        self.active_adapters = names
        switch(self._model[0], None if self.disable_adapters or not names else names[0])

    def enable_adapters(self, enabled: bool) -> None:
        """Switch between the active adapter and the dense model."""
        self.disable_adapters = not enabled
        self.activate(self.active_adapters)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter. Removing the last one restores the dense model."""
        model = self._model[0]
        remaining = [name for name in get_attachment(model).configs if name != adapter_name]
        was_active = adapter_name in self.active_adapters
        if not remaining:
            self.active_adapters = []
            detach(model)
            return
        remove_adapter(model, adapter_name)
        if was_active:
            warnings.warn(
                f"Adapter {adapter_name} was active which is now deleted. Setting active adapter "
                f"to {remaining[0]}.",
                stacklevel=4,
            )
            self.set_adapter(remaining[0])

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """Freeze or unfreeze adapters."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            for _, parameter in adapter_parameters(self._model[0], name):
                parameter.requires_grad_(requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> "AdapterSwitch":
        """Freeze or unfreeze the active adapter, as transformers does after loading one."""
        self.set_requires_grad(self.active_adapters, requires_grad)
        return self

    def merge(self, *args: object, **kwargs: object) -> None:
        """Refuse: conditional adapters cannot be merged."""
        raise AttachmentError(MERGE_REFUSED)

    def remove(self) -> None:
        """Remove the switch from the model; `detach` calls it."""
        model = self._model[0]
        # A new dictionary, because a caller may be iterating over the old one.
        model.__dict__["_modules"] = {k: v for k, v in model._modules.items() if v is not self}

    def _get_available_adapters(self) -> set[str]:
        return set(get_attachment(self._model[0]).configs)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        for _, module, parts in adapter_parts(self._model[0]):
            own = [p for name, p in module.named_parameters() if "coda_" not in name]
            if own and adapter_name in parts:
                parts[adapter_name].to(device or own[0].device)


class _OwnsParameters:
    """Mixin: PEFT training wrapper that names an adapter's parameters; the switch does the rest."""

    coda_parts: nn.ModuleDict
    coda_path: ClassVar[str]  # path of the parts, relative to this module
    coda_switch: list[AdapterSwitch]  # in a list, or it would become a submodule
    adapter_layer_names = ("coda_parts",)

    # PEFT's own looks attributes up in a wrapped module, and there is none.
    __getattr__ = nn.Module.__getattr__

    @property
    def _adapters(self) -> set[str]:
        return set(self.coda_parts)

    @property
    def active_adapters(self) -> list[str]:
        return self.coda_switch[0].active_adapters

    active_adapter = active_adapters

    @property
    def disable_adapters(self) -> bool:
        return self.coda_switch[0].disable_adapters

    def adapter_state_dict_load_map(self, adapter_name: str) -> dict[str, str]:
        """Map names in the file to names in the model, both relative to this module."""
        if adapter_name not in self.coda_parts:
            return {}
        names = [name for name, _ in self.coda_parts[adapter_name].named_parameters()]
        return {name: f"{self.coda_path}{adapter_name}.{name}" for name in names}

    def adapter_state_dict(
        self, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return an adapter's tensors by their names in the file."""
        names = self.adapter_state_dict_load_map(adapter_name)
        return {key: state_dict[name] for key, name in names.items()}

    def _get_available_adapters(self) -> set[str]:
        return self._adapters

    def check_set_adapter(self, adapter_name: str | list[str]) -> str | None:
        """Accept the name, which the switch has checked."""
        return adapter_name if isinstance(adapter_name, str) else next(iter(adapter_name), None)

    def _do_nothing(self, *args: object, **kwargs: object) -> None:
        """The switch does it for all modules."""

    update = set_adapter = enable_adapters = delete_adapter = set_requires_grad = _do_nothing


class PeftPartsModule(_OwnsParameters, DynamicSubclass, AuxiliaryTrainingWrapper):
    """Mixin for the dictionary of adapters in a conditional layer."""

    coda_path = ""

    @property
    def coda_parts(self) -> nn.ModuleDict:  # type: ignore[override]
        """The adapters, by name."""
        return cast("nn.ModuleDict", self)


class PeftSwitchableModule(_OwnsParameters, SwitchableModule, ModulesToSaveWrapper):
    """Mixin for a norm or head, PEFT's "module to save"."""

    coda_path = "coda_copies."

    @property
    def coda_parts(self) -> nn.ModuleDict:  # type: ignore[override]
        """The copies, by adapter."""
        return self.coda_copies

    def _coda_original(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the module as it was; PEFT's forward is not asked."""
        return self.coda_original_class.forward(self, *args, **kwargs)


def find_switch(model: nn.Module) -> AdapterSwitch | None:
    """Return the switch of a model that PEFT made conditional."""
    return next((m for m in model.modules() if isinstance(m, AdapterSwitch)), None)


def introduce_to_peft(model: nn.Module) -> AdapterSwitch:
    """Make the modules of a conditional model implement PEFT's interfaces; return its switch."""
    outer, adapter_switch = transformers_model(model), find_switch(model)
    if adapter_switch is None:
        adapter_switch = AdapterSwitch(outer)
        outer.add_module(SWITCH, adapter_switch)
        get_attachment(model).handles += (adapter_switch,)
    for _, module, parts in list(adapter_parts(model)):
        is_layer = isinstance(module, ConditionalLayer)
        owner: nn.Module = parts if is_layer else module
        mixin: type[DynamicSubclass] = PeftPartsModule if is_layer else PeftSwitchableModule
        if not isinstance(owner, _OwnsParameters):
            if isinstance(owner, DynamicSubclass):  # replace the mixin that it has
                owner.__class__ = owner.coda_original_class
            cast("_OwnsParameters", add_mixin(owner, mixin)).coda_switch = [adapter_switch]
    return adapter_switch
