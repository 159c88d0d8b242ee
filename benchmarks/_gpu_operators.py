"""Latency of the routing operators on a GPU, in torch and in Triton."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from benchmarks._encoder_models import ADAPTER_DIM
from benchmarks._gpu_cells import TORCH, Part, Run, Settings, capture
from benchmarks._gpu_report import describe_error
from benchmarks._report import Report, milliseconds
from conditional_adapters import ops
from conditional_adapters.analysis.timing import time_interleaved
from conditional_adapters.modules.adapter import ParallelAdapter, describe_norm

CALLS = 20  # of an operator in one measurement
OPERATOR_SHAPES, HIDDEN, HEADS = ((32, 512), (8, 4096)), 2048, 32
# Batch, tokens, hidden size and norm of the light branch.
LIGHT_BRANCHES: dict[str, tuple[int, int, int, type[nn.Module]]] = {
    "T5-XL": (32, 512, 2048, T5LayerNorm),
    "Whisper-large-v3": (32, 1500, 1280, nn.LayerNorm),
    "ViT-L/16": (32, 197, 1024, nn.LayerNorm),
    "BERT-base": (32, 512, 768, nn.Identity),
}


def operator_parts(settings: Settings) -> Iterator[Part]:
    """Yield the routing operators."""
    shapes, hidden = (((2, 16),), 8) if settings.is_tiny else (OPERATOR_SHAPES, HIDDEN)
    for batch, seq in shapes:
        yield f"{batch} x {seq}, k = n / 4", partial(_operators, batch, seq, hidden, settings)
    for model, size in LIGHT_BRANCHES.items():
        yield f"{model}'s size", partial(_light_branch, *size, settings)


def _operators(batch: int, seq: int, hidden: int, settings: Settings) -> Report:
    with ops.set_kernel_backend(TORCH):
        calls = _operator_calls(batch, seq, hidden, settings)
    return _time_calls(calls, settings)


def _light_branch(
    batch: int, seq: int, hidden: int, norm_type: type[nn.Module], settings: Settings
) -> Report:
    batch, seq, hidden = (2, 16, 8) if settings.is_tiny else (batch, seq, hidden)
    like: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype}
    adapter, norm = ParallelAdapter(hidden, ADAPTER_DIM).to(**like), norm_type(hidden).to(**like)
    states, direction = torch.randn(batch, seq, hidden, **like), torch.randn(hidden).to(**like)

    @torch.no_grad()
    def branch() -> object:
        return ops.light_branch(
            states, states, adapter, norm=describe_norm(norm), router_weight=direction
        )

    return _time_calls({"norm, scores and adapter": branch}, settings)


def _time_calls(calls: Mapping[str, Run], settings: Settings) -> Report:
    """Latency of each operator with each backend, eager and as a CUDA graph."""
    report: Report = {}
    for name, operator in calls.items():
        runs: dict[str, Run] = {}
        errors: dict[str, str] = {}
        for backend in settings.backends:

            def repeat(operator: Run = operator, backend: ops.KernelBackend = backend) -> None:
                with ops.set_kernel_backend(backend):
                    for _ in range(CALLS):
                        operator()

            try:
                repeat()
                runs[f"{backend}, eager"] = repeat
                if settings.on_gpu:
                    runs[f"{backend}, CUDA graph"] = capture(repeat).replay
            except Exception as error:
                errors[backend] = describe_error(error)
        times = time_interleaved(runs, rounds=settings.rounds, warmup=settings.warmup)
        report[name] = {key: {"error": error} for key, error in errors.items()} | {
            key: {"milliseconds": milliseconds(timing, calls=CALLS, digits=4)}
            for key, timing in times.items()
        }
    return report


def _operator_calls(batch: int, seq: int, hidden: int, settings: Settings) -> dict[str, Run]:
    k = seq // 4
    like: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype}
    scores = torch.randn(batch, seq, device=settings.device, requires_grad=True)
    grad, weights = torch.randn_like(scores), torch.rand(batch, k, device=settings.device)
    states, light = torch.randn(batch, seq, hidden, **like), torch.randn(batch, seq, hidden, **like)
    outputs = torch.randn(batch, k, hidden, **like)
    indices, _ = ops.select_tokens(scores, top_k=k)
    inputs = ops.gather_tokens(states, indices)
    pairs = torch.randn(1, HEADS, seq, seq, **like)

    def forward() -> Tensor:
        return ops.soft_topk(scores, top_k=k, epsilon=1.0)

    def without_gradient(function: Callable[..., object], *args: object, **kwargs: object) -> Run:
        return torch.no_grad()(partial(function, *args, **kwargs))

    sizes: dict[str, Any] = {"top_k": k, "epsilon": 1.0}
    update = (light, indices, outputs, inputs, weights)
    return {
        "soft_topk": without_gradient(forward),
        "soft_topk, forward and backward": lambda: torch.autograd.grad(forward(), scores, grad),
        "select_and_weigh": without_gradient(ops.select_and_weigh, scores, **sizes),
        "gather_tokens": without_gradient(ops.gather_tokens, states, indices),
        "gather_pairs": without_gradient(ops.gather_pairs, pairs, indices),
        "add_weighted_update_": without_gradient(ops.add_weighted_update_, *update),
    }
