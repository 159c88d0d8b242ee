"""Time conditional Conformer layers, whose convolution runs on all tokens, and the convolution.

An encoder of half w2v-bert's width with random weights runs dense and conditional; its convolution
modules also run alone. All take turns in every round, and ratios are taken within a round. Torch
counts the floating-point operations. See docs/decisions/0004 for what the result means.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

import conditional_adapters as ca
from benchmarks._report import RESULTS, describe_run, write_report
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
    """The convolution modules of all layers, one after the other."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(layer.conv_module for layer in encoder.layers)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Run them with their residual connections."""
        for part in self.parts:
            hidden_states = hidden_states + part(hidden_states)
        return hidden_states


def measure(num_rounds: int, num_frames: int) -> dict[str, dict[str, object]]:
    """Return times and operations of the dense and conditional encoders and the convolutions."""
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
    lower, median, upper = (round(1e3 * seconds, 2) for seconds in times[name].quartiles)
    return {
        "milliseconds": {"median": median, "q1": lower, "q3": upper},
        "times_faster_than_dense": round(times[name].speed_up(times["dense"]), 3),
        # The inverse of how many times faster they are.
        "share_of_convolutions": round(1 / times["convolutions"].speed_up(times[name]), 3),
        "flops": flops[name],
        "times_fewer_flops_than_dense": round(flops["dense"] / flops[name], 3),
        "share_of_convolutions_in_flops": round(flops["convolutions"] / flops[name], 3),
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds, at least 3")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames per sequence")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, default=RESULTS / "conformer.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    run = describe_run("benchmarks.conformer", "transformers") | {
        "dtype": "float32",
        "config": CONFIG,
        "batch_size": BATCH,
        "frames": arguments.frames,
        "adapter_dim": ADAPTER_DIM,
        "rounds": arguments.rounds,
    }
    results = measure(arguments.rounds, arguments.frames)
    write_report(arguments.output, run, results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
