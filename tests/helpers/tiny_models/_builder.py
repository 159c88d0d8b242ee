"""What a tiny model is, and how to make one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import transformers as hf
from torch import Tensor

VOCABULARY, HIDDEN, HEADS, LAYERS, SEQ = 60, 32, 4, 3, 11
Inputs = dict[str, Tensor]

ENCODER = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
}


def pad_text(inputs: Inputs, side: str) -> Inputs:
    """Make the second row four tokens shorter, with padding on one side."""
    mask = torch.ones_like(inputs["input_ids"])
    if side == "left":
        mask[1, :4] = 0
    else:
        mask[1, -4:] = 0
    ids = inputs["input_ids"].masked_fill(mask == 0, 0)
    return inputs | {"input_ids": ids, "attention_mask": mask}


def cut_text(inputs: Inputs, row: int, keep: Tensor) -> Inputs:
    """Take one row, without a mask, and of its first input what `keep` says."""
    main = next(iter(inputs))
    one = {k: v[row : row + 1] for k, v in inputs.items() if k != "attention_mask"}
    return one | {main: one[main][:, keep]}


def mask_is_over_tokens(model: hf.PreTrainedModel, inputs: Inputs, seq: int) -> Tensor:
    """Return which tokens are valid, `[2, seq]`, where the mask counts tokens or is missing."""
    mask = inputs.get("attention_mask")
    return torch.ones(2, seq, dtype=torch.bool) if mask is None else mask.bool()


@dataclass(frozen=True)
class TinyModel:
    """One architecture: how to build it, what it takes, and what the family cannot do at all.

    Attributes:
        build: Makes a model with random weights for an attention implementation.
        inputs: Makes a batch of two without padding.
        num_prefix_tokens: Tokens at the start that are always routed.
        num_suffix_tokens: Tokens at the end that are always routed.
        paddings: "none", and the sides on which the family takes padding.
        pad: `pad(inputs, side)` makes the second row shorter.
        cut: `cut(inputs, row, keep)` takes one row, and of it what `keep`, a mask, shows.
        mask_argument: The name of the mask among the inputs.
        units_per_token: Units of the mask that make one token.
        valid: `valid(model, inputs, seq)` tells the valid tokens.
        attentions: Attention implementations that transformers offers for the family.
        has_k_to_all: Whether its attention can look beyond the chosen tokens.
        is_padding_invariant: Whether a row's result depends on that row alone in the dense model.
        first_position: The first position id, for families that number positions from the left
            end of the padded row unless they are told the ids.
        is_causal: Tokens attend to earlier ones only.
        has_flat_masks: Layers take masks `[batch, seq]`.
        extra_rows: Further numbers of rows that linear maps of a layer see, such as those of a
            table of relative positions.
        skips: Checks that the dense family does not support itself: name of the check, or of one
            of its cases with the parameters in brackets -> reason.
    """

    build: Callable[[str], hf.PreTrainedModel]
    inputs: Callable[[], Inputs]
    num_prefix_tokens: int = 0
    num_suffix_tokens: int = 0
    paddings: tuple[str, ...] = ("none",)
    pad: Callable[[Inputs, str], Inputs] = pad_text
    cut: Callable[[Inputs, int, Tensor], Inputs] = cut_text
    mask_argument: str = "attention_mask"
    units_per_token: int = 1
    valid: Callable[[hf.PreTrainedModel, Inputs, int], Tensor] = mask_is_over_tokens
    attentions: tuple[str, ...] = ("eager", "sdpa")
    has_k_to_all: bool = True
    is_padding_invariant: bool = True
    first_position: int | None = None
    is_causal: bool = False
    has_flat_masks: bool = False
    extra_rows: tuple[int, ...] = ()
    skips: Mapping[str, str] = field(default_factory=dict)

    @property
    def attention(self) -> str:
        """The fastest of its attention implementations."""
        return self.attentions[-1]

    @property
    def modes(self) -> tuple[str, ...]:
        """The attention modes of conditional adapters that it has."""
        return ("k_to_k", "k_to_all")[: 1 + self.has_k_to_all]

    def make_inputs(self, padding: str) -> Inputs:
        """Make a batch of two with this padding."""
        return self.inputs() if padding == "none" else self.pad(self.inputs(), padding)


def builder(
    model_class: type, config_class: type, **settings: object
) -> Callable[[str], hf.PreTrainedModel]:
    """Return a function that builds a model from a configuration."""

    def build(attention: str) -> hf.PreTrainedModel:
        config = config_class(attn_implementation=attention, **settings)
        return model_class(config).eval()

    return build


def text_inputs() -> Inputs:
    """Two rows of token ids, some of which occur more than once."""
    return {"input_ids": torch.randint(3, VOCABULARY // 4, (2, SEQ))}


def sequence_to_sequence_inputs() -> Inputs:
    """Two rows of token ids, and of the decoder's."""
    return text_inputs() | {"decoder_input_ids": torch.randint(3, VOCABULARY, (2, 4))}


def image_inputs() -> Inputs:
    """Two images of 4 x 4 patches."""
    return {"pixel_values": torch.randn(2, 3, 16, 16)}
