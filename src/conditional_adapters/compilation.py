"""What a compiled model asks at each call before it runs its graph."""

from collections.abc import Sequence
from typing import Any

import torch

# Attributes that functions of this library change on the modules of a model, and `train`.
_SETTINGS = {"coda_active", "coda_dense_below", "training"}


def keep_adapter_guards_unsafe(guard_entries: Sequence[Any]) -> list[bool]:
    """Keep the guards of a graph that conditional adapters need, and few others on modules.

    Before a graph runs, torch asks thousands of times whether the model is as it was: hooks,
    containers, constants of each module. For one short text that takes as long as several products.
    With this filter it asks whether r, the active adapter or those of the rows, `set_dense_below`,
    the kind of router and adapter and `train` are the same, and about the inputs and everything
    that is not part of a module, as always. Values of weights may change, too.

    Unsafe as torch's own filters are: what else changes in a compiled model is not noticed, and the
    graph goes on as it was. Hooks that are added later are not called; PEFT's merging, switching
    and disabling of LoRA, other layers and a changed `model.config` are not seen. Compile again
    after such a change.

    Args:
        guard_entries: What `torch.compile` hands to its option `guard_filter_fn`.

    Returns:
        For each entry, whether it is kept.

    Source:
        Our choice, after `torch.compiler.skip_guard_on_all_nn_modules_unsafe`.

    Example:
        >>> options = {"guard_filter_fn": keep_adapter_guards_unsafe}
        >>> compiled = torch.compile(model, fullgraph=True, options=options)
    """
    skip = torch.compiler.skip_guard_on_all_nn_modules_unsafe
    is_elsewhere = skip(guard_entries)  # type: ignore[no-untyped-call]
    return [
        keep or _is_setting(entry) for keep, entry in zip(is_elsewhere, guard_entries, strict=True)
    ]


def _is_setting(entry: Any) -> bool:  # noqa: ANN401
    if ".coda_scope" in entry.name:  # the adapters of the rows, in a model that is compiled in part
        return True
    if entry.guard_type != "CONSTANT_MATCH":
        return False
    return "['coda_adapters']" in entry.name or entry.name.rpartition(".")[2] in _SETTINGS
