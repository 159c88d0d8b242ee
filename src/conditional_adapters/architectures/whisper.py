"""Whisper: a pre-norm encoder over windows of 1500 tokens, positions in the embeddings.

A window of 30 seconds is mostly silence if the clip is short. The dense encoder attends to all of
it, and so may routed layers. The feature extractor's attention mask (`return_attention_mask=True`)
is not a padding mask but a minimum: the budget of an example is n / r tokens, or its number of
speech tokens if that is larger (docs/decisions/0005). Without a mask it is n / r.
"""

from torch import Tensor

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture


def _frames_to_tokens(mask: Tensor, features: Tensor) -> Tensor | None:
    """Halve a mask over frames, as the second convolution does.

    Long recordings are split into windows after their mask was computed, so the mask does not fit.
    """
    fits = mask.shape == (features.shape[0], features.shape[-1])
    return mask[:, ::2] if fits else None


WHISPER = register_architecture(
    ArchitectureSpec(
        model_types=("whisper",),
        layers="encoder.layers",
        encoder="encoder",
        mask_source="",  # the whole model does not pass the mask on
        token_mask=_frames_to_tokens,
        mask_role="minimum",
        decoder_layers="decoder.layers",
        input_norm="self_attn_layer_norm",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="self_attn",
    )
)
