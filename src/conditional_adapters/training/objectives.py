"""Pretraining objectives for every modality, and their interface.

`text_objectives` has the ones that mask text. Two objectives imitate a teacher, by default the
model itself without its adapter, so no second copy of the weights is in memory. All randomness
(masks, spans) comes from the generator that the trainer passes, so a resumed run sees the same
batches as an uninterrupted one.
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
        total: The value to minimise.
        parts: Its terms, for the log; empty if there is only one.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """Objective of a pretraining step."""

    @abstractmethod
    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Make a batch of encoded examples.

        Args:
            examples: Encoded examples, at least one.
            generator: Source of randomness, for example of a mask.

        Returns:
            The tensors that `loss` takes.
        """

    def loss(self, model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
        """Compute the loss of a batch; by default the model's own, from `labels`.

        Args:
            model: A conditional model with an active adapter.
            batch: The result of `collate`.

        Returns:
            The loss.
        """
        output: Any = model(**batch)
        return ObjectiveLoss(output.loss)

    def inputs(self, batch: Batch) -> Batch:
        """Return a batch without its targets."""
        return {key: value for key, value in batch.items() if key not in _TARGETS}

    @property
    def needs_frozen_backbone(self) -> bool:
        """Whether the model without its adapter is the teacher, so its weights must not change."""
        return False


@dataclass(frozen=True, kw_only=True)
class TeacherObjective(Objective):
    """Objective that imitates the hidden states of the dense model.

    Attributes:
        pad: Makes a batch of encoded examples; by default they are stacked.
        teacher: The dense model; None means the model itself without its adapter.
    """

    pad: Pad = default_data_collator
    teacher: PreTrainedModel | None = None

    @property
    def needs_frozen_backbone(self) -> bool:
        """Whether the model itself is the teacher."""
        return self.teacher is None

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Pad the examples."""
        return self.pad(examples)

    @torch.no_grad()
    def teacher_states(
        self, model: PreTrainedModel, batch: Batch
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Run the teacher without dropout; returns as `encoder_states`."""
        if self.teacher is not None:
            return encoder_states(self.teacher.eval().to(model.device), batch)
        with without_adapter(model), evaluating(model):
            return encoder_states(model, batch)


@dataclass(frozen=True, kw_only=True)
class Distillation(TeacherObjective):
    """Match the hidden states of the dense model, after each layer and at the end.

    The loss is `layer_weight * mean over layers of e(h_l) + final_weight * e(h_final)` with
    `e(h) = sum |h - h_dense|^2 / sum |h_dense|^2` over valid tokens. In Whisper all tokens of a
    window are valid, because its decoder reads the silence too. It needs no labels and no head, and
    works for every modality. In encoder-decoder models only the encoder runs: the adapters of the
    decoder stay at zero, where they have no effect.

    Attributes:
        layer_weight: Weight of the states after each layer, >= 0.
        final_weight: Weight of the encoder's output, after its last norm, >= 0.

    Raises:
        ConfigError: If both weights are 0, or one is negative.

    Source:
        Our choice (docs/decisions/0007); the paper pretrains on the original objective.
    """

    layer_weight: float = 1.0
    final_weight: float = 1.0

    def __post_init__(self) -> None:
        weights = self.layer_weight, self.final_weight
        if min(weights) < 0 or max(weights) == 0:
            raise ConfigError(
                "layer_weight and final_weight must be at least 0 and one of them above 0, got "
                f"{weights[0]} and {weights[1]}."
            )

    def loss(self, model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
        """Run the model twice, dense and conditional, and compare the states."""
        targets, final_target = self.teacher_states(model, batch)
        with record_routing(model) as routing:
            states, final_state = encoder_states(model, batch)
        mask = routing.token_mask
        pairs = zip(states[1:], targets[1:], strict=True)  # the first are the embeddings
        errors = torch.stack([relative_error(*pair, mask) for pair in pairs])
        layers, final = errors.mean(), relative_error(final_state, final_target, mask)
        total = self.layer_weight * layers + self.final_weight * final
        return ObjectiveLoss(total, {"layers": layers.detach(), "final": final.detach()})


@dataclass(frozen=True, kw_only=True)
class MaskedPatches(TeacherObjective):
    """Predict the dense model's states of a whole image from the image with masked patches.

    The loss is the relative squared error of the encoder's output, as in `Distillation`, at the
    masked patches and, with the same weight, at all other tokens. Masked patches are set to 0.

    Attributes:
        patch_size: Pixels along the side of a patch, as in the model's configuration.
        masked_share: Share of the patches that are masked, in (0, 1).

    Raises:
        ConfigError: If a number is out of range.

    Source:
        Regression of a teacher's states from masked input: data2vec, arXiv:2202.03555. Taking the
        dense model as the teacher is our choice (docs/decisions/0007).
    """

    patch_size: int
    masked_share: float = 0.4

    def __post_init__(self) -> None:
        if self.patch_size < 1 or not 0 < self.masked_share < 1:
            raise ConfigError(
                "patch_size must be at least 1 and masked_share between 0 and 1, got "
                f"{self.patch_size} and {self.masked_share}."
            )

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Stack the images and choose the patches to mask in each."""
        batch = dict(self.pad(examples))
        *_, height, width = batch["pixel_values"].shape
        rows, columns = height // self.patch_size, width // self.patch_size
        order = torch.rand(len(examples), rows * columns, generator=generator).argsort(-1)
        num_masked = max(1, round(self.masked_share * rows * columns))
        batch[_PATCH_MASK] = (order < num_masked).view(-1, rows, columns)
        return batch

    def loss(self, model: PreTrainedModel, batch: Batch) -> ObjectiveLoss:
        """Run the dense model on the images and the conditional one on the masked images."""
        images, patch_mask = self.inputs(batch), batch[_PATCH_MASK]
        _, target = self.teacher_states(model, images)
        pixel_mask = patch_mask.repeat_interleave(self.patch_size, 1)
        pixel_mask = pixel_mask.repeat_interleave(self.patch_size, 2).unsqueeze(1)
        pixels = images["pixel_values"].clone()
        pixels[..., : pixel_mask.shape[2], : pixel_mask.shape[3]].masked_fill_(pixel_mask, 0)
        _, states = encoder_states(model, images | {"pixel_values": pixels})
        patches = patch_mask.flatten(1)
        # Patches are the last tokens; CLS and registers come before them.
        is_masked = nn.functional.pad(patches, (states.shape[1] - patches.shape[1], 0))
        masked = relative_error(states, target, is_masked)
        others = relative_error(states, target, ~is_masked)
        return ObjectiveLoss(
            masked + others, {"masked": masked.detach(), "others": others.detach()}
        )


@dataclass(frozen=True)
class ModelLoss(Objective):
    """The model's own loss, from `labels`: for example Whisper's on transcripts.

    Attributes:
        pad: Makes a batch with `labels` of encoded examples; by default they are stacked.
    """

    pad: Pad = default_data_collator

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Pad the examples."""
        return self.pad(examples)


def relative_error(
    states: Float[Tensor, "batch seq hidden"],
    target: Float[Tensor, "batch seq hidden"],
    token_mask: Bool[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, ""]:
    """Return `sum |states - target|^2 / sum |target|^2` over valid tokens, in float32.

    Args:
        states: Hidden states of the student.
        target: Hidden states of the teacher.
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
    """Run the encoder; return the states before and after each layer, and the output."""
    sites = find_sites(model)
    has_decoder = sites.config.is_encoder_decoder
    encoder: Any = sites.encoder if has_decoder else sites.inner.base_model
    output = encoder(**batch, output_hidden_states=True)
    return output.hidden_states, output.last_hidden_state
