"""A user's own encoder, which docs/add-an-architecture.md describes by a record."""

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ._builder import HEADS, HIDDEN, LAYERS, SEQ, TinyModel, builder, text_inputs


class MyConfig(PretrainedConfig):
    model_type = "my-encoder"
    hidden_size = HIDDEN


def eager_attention_forward(module, query, key, value, attention_mask, scaling, **kwargs):
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2), weights


class MyAttention(torch.nn.Module):
    is_causal = False

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, torch.nn.Linear(HIDDEN, HIDDEN))

    def forward(self, states, attention_mask, **kwargs):
        query, key, value = (
            project(states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        scaling = query.shape[-1] ** -0.5
        output, _ = attend(self, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return self.o_proj(output.flatten(2))


class MyLayer(GradientCheckpointingLayer):
    def __init__(self, config) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(HIDDEN), torch.nn.LayerNorm(HIDDEN)
        self.attention = MyAttention(config)
        self.up, self.down = torch.nn.Linear(HIDDEN, 48), torch.nn.Linear(48, HIDDEN)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        update = self.attention(self.norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + update
        return hidden_states + self.down(self.up(self.norm2(hidden_states)).relu())


class MyEncoder(torch.nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.layers = torch.nn.ModuleList([MyLayer(config) for _ in range(LAYERS)])

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        states = [hidden_states]
        for layer in self.layers:
            states.append(layer(states[-1], mask, **kwargs))
        return states


class MyModel(PreTrainedModel):
    config_class = MyConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config) -> None:
        super().__init__(config)
        self.embeddings = torch.nn.Embedding(60, HIDDEN)
        self.positions = torch.nn.Embedding(SEQ, HIDDEN)
        self.encoder = MyEncoder(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        positions = self.positions.weight[: input_ids.shape[1]]
        states = self.encoder(self.embeddings(input_ids) + positions, attention_mask)
        return BaseModelOutput(states[-1], tuple(states) if output_hidden_states else None)


CUSTOM_ENCODER = TinyModel(
    builder(MyModel, MyConfig),
    text_inputs,
    num_prefix_tokens=1,
    paddings=("none", "right", "left"),
)
