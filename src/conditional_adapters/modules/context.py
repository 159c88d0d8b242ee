"""The lengths of a batch, read once per forward pass and passed to all layers as a value.

`ContextHook` reads them before the encoder runs, and sends a `SequenceContext` through the
encoder's keyword arguments. Families whose encoder does not hand keyword arguments on to its layers
keep it in a `ForwardScope`, which is local to the thread, for the duration of the forward pass.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..ops import token_budget

TokenMask: TypeAlias = Callable[[Tensor, Tensor], Tensor | None]
# What the tokens outside a mask are: padding, or tokens like the others. In the second case the
# mask gives each example a minimum budget.
MaskRole = Literal["padding", "minimum"]

CONTEXT_ARGUMENT = "coda_context"  # the keyword argument that carries a `SequenceContext`
ADAPTERS_ARGUMENT = "coda_adapter_batch"  # carries a `mixed_batch.AdapterBatch` to a layer
ADAPTER_NAMES_ARGUMENT = "adapter_names"  # of a model: an adapter for each example


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many tokens of each example may be selected."""

    top_k: int  # slots per example
    per_example: Int[Tensor, " batch"] | None = None  # slots that each example uses; None = all
    token_mask: Bool[Tensor, "batch seq"] | None = None  # None = no padding
    num_prefix_tokens: int = 0  # always selected, inside the budget
    num_suffix_tokens: int = 0  # the same, the last tokens of each example


class SequenceContext(NamedTuple):
    """Lengths or minimum budgets of a batch.

    A named tuple, not a dataclass, because the tools that move arguments between devices know it.
    """

    token_mask: Bool[Tensor, "batch seq"] | None = None  # True = valid token; None = no padding
    lengths: Int[Tensor, " batch"] | None = None  # valid tokens per example, if there is a mask
    shortest: int | None = None  # the extremes of `lengths`, if known on the host
    longest: int | None = None
    is_padding_only: bool = True  # attention masks hide nothing but padding
    reduction_factor: float | None = None  # overrides that of the layers (elastic training)
    minimums: Int[Tensor, " batch"] | None = None  # minimum budget of each example, at any r
    smallest_minimum: int | None = None  # the extremes of `minimums`, if known on the host
    largest_minimum: int | None = None

    def budget(self, seq: int, factor: float, ends: tuple[int, int]) -> Budget:
        """Return the budget of each example at a reduction factor.

        Args:
            seq: The padded length.
            factor: r > 1.
            ends: Number of tokens that are always selected at the start and at the end.

        Returns:
            As many slots as the example with the largest budget needs.
        """
        minimum = max(sum(ends), 1)
        top_k, per_example = self.num_slots(seq, factor, minimum), None
        if self.lengths is not None:
            if (
                self.shortest is None
                or token_budget(self.shortest, factor, minimum=minimum) < top_k
            ):
                per_example = token_budget(self.lengths, factor, minimum=minimum)
        elif self.minimums is not None:
            least, top_k = top_k, self.raise_slots(top_k, seq)
            if self.smallest_minimum is None or max(least, self.smallest_minimum) < top_k:
                per_example = self.minimums.clamp_min(least)
        return Budget(
            top_k=top_k,
            per_example=per_example,
            token_mask=self.token_mask,
            num_prefix_tokens=ends[0],
            num_suffix_tokens=ends[1],
        )

    def num_slots(self, seq: int, factor: float, minimum: int) -> int:
        """Return the budget of the longest example; of a full one where no length is known."""
        length = seq if self.longest is None else self.longest
        slots = token_budget(length, factor, minimum=minimum)
        # One slot is a number even while tracing: attention branches on whether there are several.
        return 1 if slots <= 1 else slots

    def raise_slots(self, slots: int, seq: int) -> int:
        """Return the slots of the example with the largest minimum; `seq` if it is not known."""
        return seq if self.largest_minimum is None else max(slots, self.largest_minimum)


def sequence_context(
    attention_mask: Shaped[Tensor, "..."] | None,
    *,
    role: MaskRole = "padding",
    reduction_factor: float | None = None,
) -> SequenceContext:
    """Read lengths or minimum budgets from an attention mask.

    Tensor shapes depend on the largest budget, so this copies two numbers from the device to the
    host, once per forward pass. It does not while tracing or capturing a CUDA graph; layers then
    use the padded length: same results, with more unused slots.

    Args:
        attention_mask: As users pass it to a model: `[batch, seq]`, non-zero for valid tokens, or
            `[batch, heads, query, seq]`, boolean (True = attend) or additive (0 = attend). In the
            second form a token is valid if any query attends to it.
        role: "padding": the other tokens are padding. "minimum": they are tokens like the others,
            and the budget of an example is at least the number of its tokens in the mask.
        reduction_factor: Overrides that of the layers.

    Returns:
        The context. Its `token_mask` is None where nothing is padding.
    """
    if attention_mask is None:
        return SequenceContext(reduction_factor=reduction_factor)
    is_padding_only = attention_mask.dim() == 2
    token_mask = attention_mask.bool() if is_padding_only else _attended(attention_mask)
    lengths = token_mask.sum(-1)
    shortest, longest = _extremes(lengths)
    context = SequenceContext(is_padding_only=is_padding_only, reduction_factor=reduction_factor)
    if role == "minimum":
        return context._replace(
            minimums=lengths, smallest_minimum=shortest, largest_minimum=longest
        )
    if shortest == token_mask.shape[1]:
        return context
    return context._replace(
        token_mask=token_mask, lengths=lengths, shortest=shortest, longest=longest
    )


def _extremes(lengths: Int[Tensor, " batch"]) -> tuple[int, int] | tuple[None, None]:
    """Copy the smallest and the largest length to the host, unless tracing or capturing."""
    is_capturing = lengths.is_cuda and torch.cuda.is_current_stream_capturing()
    if torch.compiler.is_compiling() or is_capturing:
        return None, None
    shortest, longest = torch.stack([lengths.min(), lengths.max()]).tolist()
    return shortest, longest


def _attended(mask: Tensor) -> Tensor:
    """Return which keys any query attends to, from a mask per (query, key) pair."""
    allowed = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.bool()
    return allowed.flatten(1, -2).any(1)


class ForwardScope(threading.local):
    """State of the forward pass that the calling thread is in; one scope per model.

    For modules that cannot be handed a value: layers whose encoder drops keyword arguments, and
    norms and heads, which code that knows nothing of adapters calls. Lists, because compiled code
    does not set attributes of thread-local objects.
    """

    def __init__(self) -> None:
        self.contexts: list[SequenceContext] = []
        # (caller, adapters of the batch) of calls with `adapter_names`, the innermost last.
        self.batches: list[tuple[object, Any]] = []

    @contextmanager
    def entered(self, adapters: object) -> Iterator[None]:
        """Let norms and heads see the adapters of a batch while the context is open."""
        self.batches.append((None, adapters))
        try:
            yield
        finally:
            self.batches.pop()

    def __reduce__(self) -> tuple[type["ForwardScope"], tuple[()]]:
        return ForwardScope, ()  # a copy is in no forward pass


class CallWithNames(Protocol):
    """Begins a call with `adapter_names`; see `mixed_batch.AdapterNamesHook`."""

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Take the names from the arguments."""


class ContextHook:
    """Forward pre-hook of an encoder: read the lengths once and pass them to its layers.

    Args:
        encoder: The module whose forward gets the user's attention mask, if the family has one.
        scope: The scope of the model.
        begin_names: Called first if the arguments have `adapter_names`.
        mask_argument: The name of the mask among its arguments.
        token_mask: `token_mask(mask, inputs)` converts a mask in other units (samples, frames of a
            spectrogram) into one over tokens, given the encoder's first argument; it returns None
            where nothing is known.
        mask_role: The role of the mask over tokens, see `sequence_context`.
        passes_context: Whether the encoder hands keyword arguments on to its layers. If not, the
            context stays in the scope until the encoder returns.
    """

    def __init__(
        self,
        encoder: nn.Module,
        scope: ForwardScope,
        begin_names: CallWithNames,
        *,
        mask_argument: str = "attention_mask",
        token_mask: TokenMask | None = None,
        mask_role: MaskRole = "padding",
        passes_context: bool = True,
    ) -> None:
        names = tuple(signature(encoder.forward).parameters)
        self.input_argument, self.mask_argument = names[0], mask_argument
        self.mask_position = names.index(mask_argument) if mask_argument in names else None
        self.token_mask, self.mask_role = token_mask, mask_role
        self.scope, self.begin_names, self.passes_context = scope, begin_names, passes_context
        self.is_active = False  # whether an adapter is active
        self.elastic_factors: tuple[float, ...] = ()

    def register(self, encoder: nn.Module) -> list[RemovableHandle]:
        """Register the hook, and return the handles that remove it."""
        handles = [encoder.register_forward_pre_hook(self, with_kwargs=True)]
        if not self.passes_context:
            handles.append(encoder.register_forward_hook(self._forget, always_call=True))
        return handles

    def __call__(
        self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Add the context to the arguments."""
        if ADAPTER_NAMES_ARGUMENT in kwargs:
            args, kwargs = self.begin_names(encoder, args, kwargs)
        is_decoding = kwargs.get("encoder_outputs") is not None
        is_needed = self.is_active or self.scope.batches
        if not is_needed or is_decoding or CONTEXT_ARGUMENT in kwargs:
            return args, kwargs
        mask: Tensor | None = kwargs.get(self.mask_argument)
        if self.mask_position is not None and self.mask_position < len(args):
            mask = args[self.mask_position]
        if self.token_mask is not None and mask is not None:
            mask = self.token_mask(mask, args[0] if args else kwargs[self.input_argument])
        factor = None
        if encoder.training and self.elastic_factors and not self.scope.batches:
            factor = self.elastic_factors[int(torch.randint(len(self.elastic_factors), ()))]
        context = sequence_context(mask, role=self.mask_role, reduction_factor=factor)
        if self.passes_context:
            return args, {**kwargs, CONTEXT_ARGUMENT: context}
        self.scope.contexts.append(context)
        return args, kwargs

    def _forget(self, encoder: nn.Module, args: object, output: object) -> None:
        self.scope.contexts.clear()
