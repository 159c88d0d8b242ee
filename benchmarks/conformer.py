"""Latency of conditional Conformer layers, whose convolution runs on all tokens.

An encoder of half w2v-bert's width with random weights runs dense and conditional; its convolution
modules also run alone. All take turns in every round, and ratios are taken within a round. Torch
counts the floating-point operations. docs/decisions/0004 discusses the result.
"""

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

import conditional_adapters as ca
from benchmarks._report import describe_run, make_parser, milliseconds, parse, write_report
from conditional_adapters.analysis.flops import count_flops
from conditional_adapters.analysis.timing import Timing, time_interleaved

BATCH, FRAMES, ADAPTER_DIM = 4, 400, 64
CONFIG = {
    "hidden_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "conv_depthwise_kernel_size": 31,
    "position_embeddings_type": "relative_key",
}
FACTORS = {f"conditional, r = {r}": r for r in (2, 4, 8)}


class Convolutions(nn.Module):
    """The convolution modules of all layers in sequence."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(layer.conv_module for layer in encoder.layers)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Run them with their residual connections."""
        for part in self.parts:
            hidden_states = hidden_states + part(hidden_states)
        return hidden_states


def measure(num_rounds: int, num_frames: int) -> dict[str, dict[str, object]]:
    """Latency and operations of the dense and conditional encoders and the convolutions."""
    model = Wav2Vec2BertModel(Wav2Vec2BertConfig(**CONFIG)).eval()
    ca.attach(model, ca.ConditionalAdapterConfig(adapter_dim=ADAPTER_DIM))
    encoder, states = model.encoder, torch.randn(BATCH, num_frames, CONFIG["hidden_size"])
    convolutions = Convolutions(encoder)
    modules = {"dense": encoder, "convolutions": convolutions} | dict.fromkeys(FACTORS, encoder)

    def prepare(name: str) -> None:
        ca.set_adapter(model, "default" if name in FACTORS else None)
        if name in FACTORS:
            ca.set_reduction_factor(model, FACTORS[name])

    flops = {}
    for name, module in modules.items():
        prepare(name)
        flops[name] = count_flops(module, {"hidden_states": states})
    with torch.inference_mode():
        times = time_interleaved(
            {name: lambda module=module: module(states) for name, module in modules.items()},
            prepare=prepare,
            rounds=num_rounds,
        )
    return {name: _summarise(name, times, flops) for name in modules}


def _summarise(name: str, times: dict[str, Timing], flops: dict[str, int]) -> dict[str, object]:
    return {
        "milliseconds": milliseconds(times[name]),
        "times_faster_than_dense": round(times[name].speed_up(times["dense"]), 3),
        # The inverse of how many times faster they are.
        "share_of_convolutions": round(1 / times["convolutions"].speed_up(times[name]), 3),
        "flops": flops[name],
        "times_fewer_flops_than_dense": round(flops["dense"] / flops[name], 3),
        "share_of_convolutions_in_flops": round(flops["convolutions"] / flops[name], 3),
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = make_parser(__doc__, rounds=15, output="conformer.json")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames per sequence")
    arguments = parse(parser)
    run = describe_run("benchmarks.conformer", "transformers") | {
        "dtype": "float32",
        "config": CONFIG,
        "batch_size": BATCH,
        "frames": arguments.frames,
        "adapter_dim": ADAPTER_DIM,
        "rounds": arguments.rounds,
    }
    write_report(arguments.output, run, measure(arguments.rounds, arguments.frames))


if __name__ == "__main__":
    main()
