"""What a forward pass knows about the lengths of its sequences, passed to layers as a value."""

import threading
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import AttachmentError
from .rows import RowScope

TokenMask: TypeAlias = Callable[[Tensor, Tensor], Tensor | None]
# What the tokens of a mask are: all that a row has, or those for which its budget has to suffice.
MaskRole = Literal["padding", "floor"]

# The keyword argument that carries a `SequenceContext` through a model's own forward functions.
CONTEXT_ARGUMENT = "coda_context"


class SequenceContext(NamedTuple):
    """Lengths or least budgets of a batch, read once per forward pass and shared by all layers.

    A named tuple, not a dataclass, because the tools that move arguments between devices know it.
    """

    token_mask: Bool[Tensor, "batch seq"] | None = None  # True = real token; None = no padding
    lengths: Int[Tensor, " batch"] | None = None  # valid tokens per row, if there is a mask
    shortest: int | None = None  # the extremes of `lengths`, if known on the host
    longest: int | None = None
    is_padding_only: bool = True  # attention masks say nothing beyond `token_mask`
    reduction_factor: float | None = None  # overrides the layers' own (elastic training)
    floors: Int[Tensor, " batch"] | None = None  # a row's least budget at any r, padding or not
    lowest_floor: int | None = None  # the extremes of `floors`, if known on the host
    highest_floor: int | None = None


def sequence_context(
    attention_mask: Shaped[Tensor, "..."] | None,
    *,
    role: MaskRole = "padding",
    reduction_factor: float | None = None,
) -> SequenceContext:
    """Read lengths, or the floors of budgets, off an attention mask.

    This is the only place that asks the device for numbers (one transfer per forward pass), because
    tensor shapes depend on the row that needs most. While a compiler traces or a CUDA graph records
    it does not ask; layers take the padded length instead: same results, with more unused slots.

    Args:
        attention_mask: As users pass it to a model: `[batch, seq]`, non-zero for real tokens, or
            `[batch, heads, query, seq]`, boolean (True = attend) or additive (0 = attend). In the
            second form a token is valid if any query attends to it.
        role: Whether other tokens are padding, or tokens like all, and the mask is a floor: a row's
            budget is at least the number of its tokens in the mask.
        reduction_factor: Overrides the layers' own factor.

    Returns:
        The context. A padding mask without padding gives no mask, and a floor never does.
    """
    if attention_mask is None:
        return SequenceContext(reduction_factor=reduction_factor)
    is_padding_only = attention_mask.dim() == 2
    token_mask = attention_mask.bool() if is_padding_only else _attended(attention_mask)
    lengths = token_mask.sum(-1)
    shortest, longest = _extremes(lengths)
    context = SequenceContext(is_padding_only=is_padding_only, reduction_factor=reduction_factor)
    if role == "floor":
        return context._replace(floors=lengths, lowest_floor=shortest, highest_floor=longest)
    if shortest == token_mask.shape[1]:
        return context
    return context._replace(
        token_mask=token_mask, lengths=lengths, shortest=shortest, longest=longest
    )


def _extremes(lengths: Int[Tensor, " batch"]) -> tuple[int, int] | tuple[None, None]:
    """Ask the device for the least and the greatest number; while traced nothing is known."""
    if torch.compiler.is_compiling() or _is_recorded(lengths):
        return None, None
    shortest, longest = torch.stack([lengths.min(), lengths.max()]).tolist()
    return shortest, longest


def _is_recorded(lengths: Tensor) -> bool:
    """Tell whether a CUDA graph records what is done, which ends where the device is asked."""
    return lengths.is_cuda and torch.cuda.is_current_stream_capturing()


def _attended(mask: Tensor) -> Tensor:
    """Tell which keys any query attends to, from a mask per (query, key) pair."""
    allowed = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.bool()
    return allowed.flatten(1, -2).any(1)


class ContextHook:
    """Before the encoder runs: read the lengths once and hand them to its layers.

    The context travels through the encoder's own keyword arguments, so it is a value of this
    forward pass and of no other.

    Args:
        encoder: The module whose forward gets the users' attention mask, if the family has one.
        mask_argument: The name of the mask among its arguments.
        token_mask: `token_mask(mask, inputs)` turns a mask in other units (samples, frames of a
            spectrogram) into one over tokens, given the encoder's first argument; None from it
            means that nothing is known.
        mask_role: What the mask over tokens says, see `sequence_context`.
        scope: Tells whether rows have adapters of their own, while none is active.
    """

    def __init__(
        self,
        encoder: nn.Module,
        mask_argument: str = "attention_mask",
        token_mask: TokenMask | None = None,
        mask_role: MaskRole = "padding",
        scope: RowScope | None = None,
    ) -> None:
        names = tuple(signature(encoder.forward).parameters)
        self.input_argument, self.mask_argument = names[0], mask_argument
        self.mask_position = names.index(mask_argument) if mask_argument in names else None
        self.token_mask, self.mask_role = token_mask, mask_role
        self.is_active = False
        self.elastic_factors: tuple[float, ...] = ()
        self.scope = RowScope() if scope is None else scope

    def is_needed(self) -> bool:
        """Tell whether any layer will ask for the context."""
        return self.is_active or self.scope.rows is not None

    def register(
        self, encoder: nn.Module, layers: Iterable[nn.Module]
    ) -> tuple[RemovableHandle, ...]:
        """Put the hook in its place.

        Args:
            encoder: The module it was made for.
            layers: The layers that the context is for.

        Returns:
            What removes it again.
        """
        return (encoder.register_forward_pre_hook(self, with_kwargs=True),)

    def __call__(
        self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Add the context to the arguments."""
        is_decoding = kwargs.get("encoder_outputs") is not None
        if not self.is_needed() or is_decoding or CONTEXT_ARGUMENT in kwargs:
            return args, kwargs
        mask: Tensor | None = kwargs.get(self.mask_argument)
        if self.mask_position is not None and self.mask_position < len(args):
            mask = args[self.mask_position]
        if self.token_mask is not None and mask is not None:
            mask = self.token_mask(mask, args[0] if args else kwargs[self.input_argument])
        factor = None
        if encoder.training and self.elastic_factors and self.scope.rows is None:
            factor = self.elastic_factors[int(torch.randint(len(self.elastic_factors), ()))]
        context = sequence_context(mask, role=self.mask_role, reduction_factor=factor)
        return args, {**kwargs, CONTEXT_ARGUMENT: context}


class RelayedContextHook(ContextHook):
    """The same where the encoder does not hand keyword arguments on to its layers.

    The context waits in a place of this thread until the encoder is done, and a hook on each layer
    adds it to the arguments. Such hooks run outside gradient checkpointing, so a layer that is
    computed again gets the value it got before.
    """

    def __init__(
        self,
        encoder: nn.Module,
        mask_argument: str = "attention_mask",
        token_mask: TokenMask | None = None,
        mask_role: MaskRole = "padding",
        scope: RowScope | None = None,
    ) -> None:
        super().__init__(encoder, mask_argument, token_mask, mask_role, scope)
        self.current = _ThreadContext()

    def register(
        self, encoder: nn.Module, layers: Iterable[nn.Module]
    ) -> tuple[RemovableHandle, ...]:
        """Put the hook on the encoder, and its two helpers on encoder and layers."""
        return (
            *super().register(encoder, layers),
            encoder.register_forward_hook(self.forget, always_call=True),
            *(layer.register_forward_pre_hook(self.relay, with_kwargs=True) for layer in layers),
        )

    def __call__(
        self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Keep the context for the layers."""
        self.current.context = super().__call__(encoder, args, kwargs)[1].get(CONTEXT_ARGUMENT)
        return args, kwargs

    def relay(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Add the context to the arguments of a layer."""
        if not self.is_needed() or CONTEXT_ARGUMENT in kwargs:
            return args, kwargs
        if self.current.context is None:
            raise AttachmentError(
                f"a {type(layer).__name__} was called outside a forward pass of its model, which "
                "alone knows the lengths of the sequences. Call the model. To save memory use its "
                "own activation_checkpointing_enable(): it computes layers again with the same "
                "arguments, wrappers around whole layers do not."
            )
        return args, {**kwargs, CONTEXT_ARGUMENT: self.current.context}

    def forget(self, encoder: nn.Module, args: object, output: object) -> None:
        """Forget the context when the forward pass is over."""
        self.current.context = None


class _ThreadContext(threading.local):
    """The context of the forward pass that the calling thread is in."""

    context: SequenceContext | None = None

    def __reduce__(self) -> tuple[type["_ThreadContext"], tuple[()]]:
        return _ThreadContext, ()  # a copy is in no forward pass
