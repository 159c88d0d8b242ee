"""What pretraining can minimise: one small class per objective, behind one interface.

Here are the interface and the objectives for every modality; those that make and fill gaps in texts
are in `text_objectives`. The teacher of the objectives without a head is the model itself, run
without its adapter: no second copy of the weights is in memory. Whatever is random (masks, spans)
is drawn from the generator that the trainer hands over, so that a resumed run sees the batches of
the uninterrupted one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel, default_data_collator

from ..analysis import record_routing
from ..analysis._modes import evaluating
from ..errors import ConfigError
from ..model.attachment import without_adapter
from ..model.structure import find_sites

Batch = dict[str, Tensor]
Examples = Sequence[Mapping[str, Any]]
Pad = Callable[[Examples], Batch]

_PATCH_MASK = "patch_mask"
_TARGETS = ("labels", _PATCH_MASK)


@dataclass(frozen=True)
class ObjectiveLoss:
    """The loss of a batch.

    Attributes:
        total: What is minimised.
        parts: What it is made of, for the log; empty if there is nothing to tell apart.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """What a step of pretraining minimises."""

    @abstractmethod
    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Make a batch of encoded rows.

        Args:
            examples: Encoded rows, at least one.
            generator: Where randomness comes from, for example that of a mask.

        Returns:
            The tensors that `loss` takes.
        """

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
        """Compute the loss of a batch.

        Args:
            model: A conditional model with an active adapter.
            batch: What `collate` returned.

        Returns:
            The loss.
        """

    def inputs(self, batch: Batch) -> Batch:
        """Return what of a batch the encoder reads.

        Args:
            batch: What `collate` returned.

        Returns:
            The batch without targets.
        """
        return {key: value for key, value in batch.items() if key not in _TARGETS}

    @property
    def needs_frozen_backbone(self) -> bool:
        """Whether the model without its adapter is the teacher, and therefore must not change."""
        return False


@dataclass(frozen=True, kw_only=True)
class Distillation(Objective):
    """Come close to the hidden states of the dense model, layer by layer and at the end.

    The loss is `layer_weight * mean over layers of e(h_l) + final_weight * e(h_final)` where
    `e(h) = sum |h - h_dense|^2 / sum |h_dense|^2` over valid tokens, which all tokens of a window
    of Whisper are: its decoder reads the silence too. It needs no labels and no head, and works for
    every modality. Of encoder-decoder models only the encoder runs: the adapters of the decoder
    stay at zero, where they change nothing.

    Attributes:
        pad: Makes a batch of encoded rows; by default they are stacked.
        layer_weight: Weight of the states after each layer, >= 0.
        final_weight: Weight of the encoder's output, after its last norm, >= 0.
        teacher: The dense model; None means the model itself without its adapter.

    Raises:
        ConfigError: If both weights are 0, or one is negative.

    Source:
        Our choice (docs/decisions/0007); the paper pretrains on the original objective.
    """

    pad: Pad = default_data_collator
    layer_weight: float = 1.0
    final_weight: float = 1.0
    teacher: PreTrainedModel | None = None

    def __post_init__(self) -> None:
        weights = self.layer_weight, self.final_weight
        if min(weights) < 0 or max(weights) == 0:
            raise ConfigError(
                "layer_weight and final_weight must be at least 0 and one of them above, got "
                f"{weights[0]} and {weights[1]}."
            )

    @property
    def needs_frozen_backbone(self) -> bool:
        """Whether no other model is the teacher."""
        return self.teacher is None

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Pad the rows."""
        return self.pad(examples)

    def loss(self, model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
        """Run the model twice, dense and conditional, and compare."""
        targets, final_target = _dense_states(model, self.teacher, batch)
        with record_routing(model) as routing:
            states, final_state = encoder_states(model, batch)
        mask = routing.token_mask
        pairs = zip(states[1:], targets[1:], strict=True)  # the first are the embeddings
        errors = torch.stack([relative_error(*pair, mask) for pair in pairs])
        layers, final = errors.mean(), relative_error(final_state, final_target, mask)
        total = self.layer_weight * layers + self.final_weight * final
        return ObjectiveLoss(total, {"layers": layers.detach(), "final": final.detach()})


@dataclass(frozen=True, kw_only=True)
class MaskedPatches(Objective):
    """From an image with blank patches, predict the dense model's states of the whole image.

    The loss is the relative squared error of the encoder's output, as in `Distillation`, at the
    blank patches and, with the same weight, at all other tokens.

    Attributes:
        patch_size: Pixels along the side of a patch, as in the model's configuration.
        masked_share: Share of the patches that are blank, in (0, 1).
        pad: Makes a batch with `pixel_values` of encoded rows; by default they are stacked.
        teacher: The dense model; None means the model itself without its adapter.

    Raises:
        ConfigError: If a number is out of range.

    Source:
        Regression of a teacher's states from masked input: data2vec, arXiv:2202.03555. That the
        teacher is the dense model is our choice (docs/decisions/0007).
    """

    patch_size: int
    masked_share: float = 0.4
    pad: Pad = default_data_collator
    teacher: PreTrainedModel | None = None

    def __post_init__(self) -> None:
        if self.patch_size < 1 or not 0 < self.masked_share < 1:
            raise ConfigError(
                "patch_size must be at least 1 and masked_share between 0 and 1, got "
                f"{self.patch_size} and {self.masked_share}."
            )

    @property
    def needs_frozen_backbone(self) -> bool:
        """Whether no other model is the teacher."""
        return self.teacher is None

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Stack the images and choose the patches that are blank in each."""
        batch = dict(self.pad(examples))
        *_, height, width = batch["pixel_values"].shape
        rows, columns = height // self.patch_size, width // self.patch_size
        order = torch.rand(len(examples), rows * columns, generator=generator).argsort(-1)
        num_masked = max(1, round(self.masked_share * rows * columns))
        batch[_PATCH_MASK] = (order < num_masked).view(-1, rows, columns)
        return batch

    def loss(self, model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
        """Run the dense model on the images and the conditional one on what is left of them."""
        images = self.inputs(batch)
        patch_mask = batch[_PATCH_MASK]
        _, target = _dense_states(model, self.teacher, images)
        pixels = images["pixel_values"]
        blank = patch_mask.repeat_interleave(self.patch_size, 1)
        blank = blank.repeat_interleave(self.patch_size, 2)
        blanked = pixels.clone()
        blanked[..., : blank.shape[1], : blank.shape[2]].masked_fill_(blank.unsqueeze(1), 0)
        _, states = encoder_states(model, images | {"pixel_values": blanked})
        patches = patch_mask.flatten(1)
        # Patches are the last tokens; CLS and registers come before them.
        is_masked = nn.functional.pad(patches, (states.shape[1] - patches.shape[1], 0))
        masked = relative_error(states, target, is_masked)
        others = relative_error(states, target, ~is_masked)
        return ObjectiveLoss(
            masked + others, {"masked": masked.detach(), "others": others.detach()}
        )


class ModelLoss(Objective):
    """The loss that a model computes from its own labels, for example Whisper's on transcripts.

    Args:
        pad: Makes a batch with `labels` of encoded rows; by default they are stacked.
    """

    def __init__(self, pad: Pad = default_data_collator) -> None:
        self.pad = pad

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Pad the rows."""
        return self.pad(examples)

    def loss(self, model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
        """Run the model."""
        return own_loss(model, batch)


def relative_error(
    states: Float[Tensor, "batch seq hidden"],
    target: Float[Tensor, "batch seq hidden"],
    token_mask: Bool[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, ""]:
    """Return `sum |states - target|^2 / sum |target|^2` over valid tokens, in float32.

    Args:
        states: What a model computes.
        target: What it should compute.
        token_mask: True for the tokens that count; None means all.

    Returns:
        The error: 0 if both are equal, 1 if the states are all zero.
    """
    error = (states.float() - target.float()).square().sum(-1)
    size = target.float().square().sum(-1)
    if token_mask is not None:
        error, size = error * token_mask, size * token_mask
    return error.sum() / size.sum().clamp(min=torch.finfo(torch.float32).tiny)


def encoder_states(model: PreTrainedModel, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the encoder.

    Args:
        model: A transformers model, dense or conditional.
        batch: Its arguments; of an encoder-decoder model those of the encoder.

    Returns:
        The states before and after each layer, and the encoder's output.
    """
    sites = find_sites(model)
    has_decoder = sites.config.is_encoder_decoder
    encoder: Any = sites.encoder if has_decoder else sites.inner.base_model
    output = encoder(**batch, output_hidden_states=True)
    return output.hidden_states, output.last_hidden_state


@torch.no_grad()
def _dense_states(
    model: PreTrainedModel, teacher: PreTrainedModel | None, batch: Batch
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the teacher, without dropout."""
    if teacher is not None:
        return encoder_states(teacher.eval().to(model.device), batch)
    with without_adapter(model), evaluating(model):
        return encoder_states(model, batch)


def own_loss(model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
    """Return the loss that a model computes from `labels`.

    Args:
        model: A model with a head.
        batch: Its arguments.

    Returns:
        The loss.
    """
    output: Any = model(**batch)
    return ObjectiveLoss(output.loss)
