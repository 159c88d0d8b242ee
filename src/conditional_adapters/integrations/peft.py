"""Conditional adapters as a method of PEFT.

Importing this module makes PEFT know the type "CODA", so that `get_peft_model`,
`PeftModel.from_pretrained`, `AutoPeftModelFor*` and the `add_adapter`, `load_adapter` and
`from_pretrained` of transformers work with it. The tuner is a thin layer over `attach` and
`add_adapter`; files are the ones of `save_adapter`, whichever library writes them.

PEFT's registration function accepts only names that PEFT itself lists, so `register` fills the
mappings that it would fill (docs/peft.md has the tested versions).
"""

import copy
import enum
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import InitVar, dataclass, fields
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

from .._version import __version__
from ..checkpoint.files import PEFT_TYPE
from ..checkpoint.model_kind import check_model_kind, model_kind
from ..config import ConditionalAdapterConfig
from ..errors import AttachmentError, CheckpointError, ConfigError
from ..model.attach import add_adapter, attach, detach
from ..model.attachment import get_attachment, is_attached
from ..model.structure import transformers_model
from ..modules import AttentionMode
from ..modules.context import ADAPTER_NAMES_ARGUMENT
from ..modules.router import Gate, RouterKind
from ..ops import SoftTopKMethod
from ._peft_modules import MERGE_REFUSED, AdapterSwitch, find_switch, introduce_to_peft

__all__ = ["ConditionalAdapterPeftConfig", "register"]

_DEFAULTS = ConditionalAdapterConfig()
# PEFT looks for parameters by a prefix in some places; adapter names and paths have no colons.
_NO_PREFIX = "::"
_BASE_MODEL = "__base__"  # PEFT's name for rows without an adapter
# What PEFT's classes for tasks append to `modules_to_save`.
_HEADS_OF_TASKS = (["classifier", "score"], ["qa_outputs"])
# PEFT tells adapters apart by their names between dots; these stand there in every adapter.
_NAMES_OF_PARTS = {"coda_adapters", "coda_copies", "adapter", "router", "down", "up", "weight"}


class _PeftType(str, enum.Enum):  # noqa: UP042  PEFT's own is no StrEnum
    """PEFT's list of types cannot be extended; this member behaves like one of its own."""

    CODA = PEFT_TYPE


@dataclass
class ConditionalAdapterPeftConfig(PeftConfig):
    """The configuration of conditional adapters for PEFT.

    The fields of `ConditionalAdapterConfig`, with their meanings and defaults, and those that every
    PEFT configuration has (`task_type`, `inference_mode`, `base_model_name_or_path`, `revision`).
    As in PEFT, `task_type` "SEQ_CLS", "TOKEN_CLS" and "QUESTION_ANS" always train the head.

    Attributes:
        reduction_factor: See `ConditionalAdapterConfig`, here and below.
        adapter_dim: Width of the bottleneck.
        adapter_activation: Its non-linearity.
        attention_mode: "k_to_k" or "k_to_all".
        epsilon: Temperature of the soft top-k.
        soft_topk: "exact" or "iterative".
        gate: "weighted" or "straight_through".
        dense_layers: Encoder layers that process every token.
        adapt_decoder: Give the decoder adapters.
        train_norms: Train the layer norms.
        modules_to_save: Further modules that are trained and saved; None: the task head.
        router_kind: "learned", or a baseline.
        model_type: The type of model that the adapter was made for; filled in.
        model_class: Its class; filled in.
        library_version: Read from files, written with the current value.
        tensors_sha256: Read from files and dropped, because it belongs to one file.

    Raises:
        ConfigError: If a value is outside its range.
    """

    reduction_factor: float | tuple[float, ...] = _DEFAULTS.reduction_factor
    adapter_dim: int = _DEFAULTS.adapter_dim
    adapter_activation: str = _DEFAULTS.adapter_activation
    attention_mode: AttentionMode = _DEFAULTS.attention_mode
    epsilon: float = _DEFAULTS.epsilon
    soft_topk: SoftTopKMethod = _DEFAULTS.soft_topk
    gate: Gate = _DEFAULTS.gate
    dense_layers: Sequence[int] = _DEFAULTS.dense_layers
    adapt_decoder: bool = _DEFAULTS.adapt_decoder
    train_norms: bool = _DEFAULTS.train_norms
    modules_to_save: list[str] | None = None
    router_kind: RouterKind = _DEFAULTS.router_kind
    model_type: str | None = None
    model_class: str | None = None
    library_version: InitVar[str | None] = None
    tensors_sha256: InitVar[str | None] = None

    def __post_init__(self, library_version: str | None, tensors_sha256: str | None) -> None:
        super().__post_init__()
        self.peft_type = _PeftType.CODA
        if self.modules_to_save is not None:
            self.modules_to_save = list(self.modules_to_save)  # PEFT appends to it
        self.to_config()

    def to_config(self) -> ConditionalAdapterConfig:
        """Return the fields that are not PEFT's, checked.

        Returns:
            What `attach` takes.

        Raises:
            ConfigError: If a value is outside its range.
        """
        names = [field.name for field in fields(ConditionalAdapterConfig)]
        return ConditionalAdapterConfig.from_dict({name: getattr(self, name) for name in names})

    def to_dict(self) -> dict[str, Any]:
        """Return what `adapter_config.json` holds."""
        return {**super().to_dict(), "library_version": __version__}


class ConditionalAdapterTuner(BaseTuner):
    """PEFT's handle on a conditional model.

    Args:
        model: The model to adapt.
        peft_config: The configuration, or configurations by adapter.
        adapter_name: The adapter to add now.
        low_cpu_mem_usage: Make the parameters on the meta device, to be loaded later.
        state_dict: Not needed: the configuration says where the parameters are.

    Attributes:
        prefix: What PEFT would tell parameters by; nothing has it.
        tuner_layer_cls: What PEFT looks for to switch adapters.
        target_module_mapping: Not needed.

    Raises:
        AttachmentError: If another PEFT method, or `attach`, was here before.
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
        _refuse_what_is_there(model)
        present = getattr(model, "peft_config", {})
        try:
            with warnings.catch_warnings():
                # Through transformers, each adapter of a model gets a tuner of its own.
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
        """Put an adapter into the model. It becomes active only if it is the tuner's active one.

        Args:
            model: The model to adapt.
            adapter_name: A new name, with a configuration in `peft_config`.
            autocast_adapter_dtype: Has no effect: adapters are always in float32 or wider.
            low_cpu_mem_usage: Make the parameters on the meta device, to be loaded later.
            state_dict: Not needed.
        """
        config = _fit(self.peft_config[adapter_name], model)
        _check_name(model, adapter_name)
        put = add_adapter if is_attached(model) else attach
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            put(model, config.to_config(), adapter_name=adapter_name)
        config.modules_to_save = list(get_attachment(model).heads[adapter_name])
        self.peft_config[adapter_name] = config
        active = self.active_adapter = self.active_adapters  # a list, as after PEFT's set_adapter
        switch = introduce_to_peft(model)
        switch.activate(active)
        switch.set_requires_grad(adapter_name, adapter_name in active and not config.inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: object, **kwargs: Any) -> Iterator[None]:  # noqa: ANN401
        """Hand `adapter_names`, which PeftModel keeps to itself, to the model inside."""
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
        """Remove all adapters.

        Returns:
            The dense model, bit for bit.
        """
        if is_attached(self.model):
            detach(self.model)
        del self.model.peft_config
        model: nn.Module = self.model
        return model

    def merge_and_unload(self, *args: object, **kwargs: object) -> nn.Module:
        """Refuse; see the message."""
        raise AttachmentError(MERGE_REFUSED)

    def merge_adapter(self, *args: object, **kwargs: object) -> None:
        """Refuse; see the message."""
        raise AttachmentError(MERGE_REFUSED)

    def unmerge_adapter(self) -> None:
        """Refuse; see the message."""
        raise AttachmentError(MERGE_REFUSED)

    def _create_and_replace(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("inject_adapter does not look for target modules")

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key  # the modules have done so, see _peft_modules

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        unexpected = sorted(set(state_dict) - set(model.state_dict()))
        if unexpected:
            shown = ", ".join(unexpected[:5])
            raise CheckpointError(
                f"the file has {len(unexpected)} tensors that adapter {adapter_name!r} of this "
                f"model has not: {shown}. Load the adapter_config.json that belongs to the file."
            )
        return state_dict


def register() -> None:
    """Make the type "CODA" known to PEFT; importing this module has done it already.

    Raises:
        ImportError: If the installed PEFT has a method of that name, or lacks what we build on.
    """
    if not hasattr(BaseTuner, "_remove_adapter_name_from_key"):
        raise ImportError(
            f"PEFT {peft.__version__} saves only the methods that it lists itself. Install "
            "'peft>=0.21', or use attach, save_adapter and load_adapter, which need no PEFT."
        )
    present = PEFT_TYPE_TO_CONFIG_MAPPING.get(PEFT_TYPE, ConditionalAdapterPeftConfig)
    if present is not ConditionalAdapterPeftConfig:
        raise ImportError(
            f"PEFT {peft.__version__} knows a method {PEFT_TYPE!r} already ({present.__name__}). "
            "Use attach, save_adapter and load_adapter, which need no PEFT."
        )
    PEFT_TYPE_TO_CONFIG_MAPPING[_PeftType.CODA] = ConditionalAdapterPeftConfig
    PEFT_TYPE_TO_TUNER_MAPPING[_PeftType.CODA] = ConditionalAdapterTuner
    PEFT_TYPE_TO_PREFIX_MAPPING[_PeftType.CODA] = _NO_PREFIX


def _refuse_what_is_there(model: nn.Module) -> None:
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
            f"the model has layers of another PEFT method ({', '.join(sorted(others))}). Within "
            "PEFT the two cannot be mixed; call attach(model, config) on this model instead."
        )


def _check_name(model: nn.Module, adapter_name: str) -> None:
    parts = {part for name, _ in model.named_parameters() for part in name.split(".")}
    names = get_attachment(model).configs if is_attached(model) else {}
    if adapter_name in (parts | _NAMES_OF_PARTS) - set(names):
        raise ConfigError(
            f"adapter_name {adapter_name!r} is also the name of a module or parameter, and PEFT "
            "tells adapters apart by the names in a path. Choose another adapter_name."
        )


def _fit(config: ConditionalAdapterPeftConfig, model: nn.Module) -> ConditionalAdapterPeftConfig:
    """Return a copy of a configuration that is made out for a model, or refuse the model."""
    check_model_kind(model, vars(config), "the configuration is that of")
    fitted = copy.copy(config)
    for name, value in model_kind(model).items():
        setattr(fitted, name, value)
    fitted.modules_to_save = _requested_heads(config.modules_to_save, transformers_model(model))
    return fitted


def _requested_heads(names: list[str] | None, model: nn.Module) -> list[str] | None:
    """Tell what the user asked for from what PEFT appended for the task."""
    for added in _HEADS_OF_TASKS:
        if names is None or names[-len(added) :] != added:
            continue
        while names[-len(added) :] == added:  # once for every model that the object was used for
            names = names[: -len(added)]
        # PEFT goes on to wrap all whose name ends so, unless it belongs to the adapter.
        paths = [path for path, _ in model.named_modules() if path.endswith(tuple(added))]
        if not paths:
            raise ConfigError(
                f"the task type trains a head named {' or '.join(added)}, and this "
                f"{type(model).__name__} has none. Leave out task_type, or add a head."
            )
        return [*names, *paths] if names else None
    return names


register()
