"""Conditional adapters as a method of PEFT.

Importing this module registers the type "CODA" with PEFT, so that `get_peft_model`,
`PeftModel.from_pretrained`, `AutoPeftModelFor*` and the `add_adapter`, `load_adapter` and
`from_pretrained` of transformers work with it. The tuner calls `attach` and `add_adapter`, and
files have the format of `save_adapter`, whichever library writes them.

PEFT's registration function accepts only names that PEFT itself lists, so `register` fills the
mappings that it would fill (docs/peft.md has the tested versions).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import peft
from accelerate import init_empty_weights
from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from ..checkpoint.files import PEFT_TYPE
from ..errors import AttachmentError, CheckpointError, ConfigError
from ..model.attach import add_adapter, attach, detach
from ..model.attachment import get_attachment, is_attached
from ..model.structure import transformers_model
from ..modules.context import ADAPTER_NAMES_ARGUMENT
from ._peft_config import ConditionalAdapterPeftConfig, PeftType
from ._peft_modules import MERGE_REFUSED, AdapterSwitch, find_switch, introduce_to_peft

__all__ = ["ConditionalAdapterPeftConfig", "register"]

# Where PEFT finds parameters by a prefix, this one finds none: no path contains colons.
_NO_PREFIX = "::"
_BASE_MODEL = "__base__"  # PEFT's adapter name for examples without an adapter
# PEFT finds an adapter by its name between dots. These names are in the paths of every adapter.
_RESERVED_NAMES = {"coda_adapters", "coda_copies", "adapter", "router", "down", "up", "weight"}


class ConditionalAdapterTuner(BaseTuner):
    """PEFT's tuner for conditional adapters.

    Args:
        model: The model to adapt.
        peft_config: The configuration, or configurations by adapter.
        adapter_name: The adapter to add now.
        low_cpu_mem_usage: Create the parameters on the meta device, to be loaded later.
        state_dict: Ignored; the configuration says where the parameters are.

    Attributes:
        prefix: Prefix of the parameters for PEFT; no parameter has it.
        tuner_layer_cls: The class by which PEFT finds the switch of the adapters.
        target_module_mapping: Not used.

    Raises:
        AttachmentError: If the model has adapters of another PEFT method or of `attach`.
    """

    prefix = _NO_PREFIX
    tuner_layer_cls = AdapterSwitch
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT declares it so)

    def __init__(
        self,
        model: nn.Module,
        peft_config: PeftConfig | dict[str, PeftConfig],
        adapter_name: str,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        _refuse_other_adapters(model)
        present = getattr(model, "peft_config", {})
        try:
            with warnings.catch_warnings():
                # transformers creates a tuner for each adapter of a model.
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                super().__init__(model, peft_config, adapter_name, low_cpu_mem_usage, state_dict)
        except Exception:
            present.pop(adapter_name, None)
            raise

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Add an adapter to the model. Activate it only if it is the tuner's active adapter.

        Args:
            model: The model to adapt.
            adapter_name: A new name, with a configuration in `peft_config`.
            autocast_adapter_dtype: Ignored; adapters are always in float32 or wider.
            low_cpu_mem_usage: Create the parameters on the meta device, to be loaded later.
            state_dict: Ignored.
        """
        config = self.peft_config[adapter_name].made_for(model)
        _check_name(model, adapter_name)
        add = add_adapter if is_attached(model) else attach
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            add(model, config.to_config(), adapter_name=adapter_name)
        config.modules_to_save = list(get_attachment(model).heads[adapter_name])
        self.peft_config[adapter_name] = config
        active = self.active_adapter = self.active_adapters  # a list, as after PEFT's set_adapter
        switch = introduce_to_peft(model)
        switch.activate(active)
        switch.set_requires_grad(adapter_name, adapter_name in active and not config.inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: object, **kwargs: Any) -> Iterator[None]:  # noqa: ANN401
        """Pass `adapter_names`, which PeftModel removes from the arguments, to the model."""
        names = kwargs.get(ADAPTER_NAMES_ARGUMENT)
        if names is None:
            yield
            return
        own = [None if name == _BASE_MODEL else name for name in names]

        def add(
            model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, {**kwargs, ADAPTER_NAMES_ARGUMENT: own}

        model = transformers_model(self.model)
        handle = model.register_forward_pre_hook(add, prepend=True, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def unload(self) -> nn.Module:
        """Remove all adapters and return the dense model, bit for bit."""
        if is_attached(self.model):
            detach(self.model)
        del self.model.peft_config
        model: nn.Module = self.model
        return model

    def merge_and_unload(self, *args: object, **kwargs: object) -> nn.Module:
        """Refuse: conditional adapters cannot be merged."""
        raise AttachmentError(MERGE_REFUSED)

    def merge_adapter(self, *args: object, **kwargs: object) -> None:
        """Refuse: conditional adapters cannot be merged."""
        raise AttachmentError(MERGE_REFUSED)

    def unmerge_adapter(self) -> None:
        """Refuse: conditional adapters cannot be merged."""
        raise AttachmentError(MERGE_REFUSED)

    def _create_and_replace(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("inject_adapter does not look for target modules")

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key  # the modules have removed it, see _peft_modules

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        unexpected = sorted(set(state_dict) - set(model.state_dict()))
        if unexpected:
            raise CheckpointError(
                f"the file has {len(unexpected)} tensors that adapter {adapter_name!r} of this "
                f"model does not have: {', '.join(unexpected[:5])}. Load the adapter_config.json "
                "that belongs to the file."
            )
        return state_dict


def register() -> None:
    """Register the type "CODA" with PEFT; importing this module does it.

    Raises:
        ImportError: If the installed PEFT has a method of that name, or is too old.
    """
    if not hasattr(BaseTuner, "_remove_adapter_name_from_key"):
        raise ImportError(
            f"PEFT {peft.__version__} saves only the methods that it lists itself. Install "
            "'peft>=0.21', or use attach, save_adapter and load_adapter, which need no PEFT."
        )
    present = PEFT_TYPE_TO_CONFIG_MAPPING.get(PEFT_TYPE, ConditionalAdapterPeftConfig)
    if present is not ConditionalAdapterPeftConfig:
        raise ImportError(
            f"PEFT {peft.__version__} already has a method {PEFT_TYPE!r} ({present.__name__}). Use "
            "attach, save_adapter and load_adapter, which need no PEFT."
        )
    PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.CODA] = ConditionalAdapterPeftConfig
    PEFT_TYPE_TO_TUNER_MAPPING[PeftType.CODA] = ConditionalAdapterTuner
    PEFT_TYPE_TO_PREFIX_MAPPING[PeftType.CODA] = _NO_PREFIX


def _refuse_other_adapters(model: nn.Module) -> None:
    if find_switch(model) is not None:
        return
    if is_attached(model):
        raise AttachmentError(
            "the model has conditional adapters that PEFT does not know, from attach or "
            "load_adapter. Save them, call detach(model), and load them with PEFT."
        )
    others = {type(m).__name__ for m in model.modules() if isinstance(m, BaseTunerLayer)}
    if others:
        raise AttachmentError(
            f"the model has layers of another PEFT method ({', '.join(sorted(others))}). PEFT "
            "cannot mix the two. To combine them, call attach(model, config) on this model."
        )


def _check_name(model: nn.Module, adapter_name: str) -> None:
    in_paths = {name for path, _ in model.named_parameters() for name in path.split(".")}
    adapters = get_attachment(model).configs if is_attached(model) else {}
    if adapter_name in (in_paths | _RESERVED_NAMES) - set(adapters):
        raise ConfigError(
            f"adapter_name {adapter_name!r} is also the name of a module or parameter, and PEFT "
            "finds adapters by their names in parameter paths. Choose another adapter_name."
        )


register()
