"""What is measured on a GPU, part by part, so that a part which fails takes no other with it.

Each function yields the parts of one cell: a name, and what measures it when it is called. The
model of a cell is made once, and given back with the last part.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from benchmarks._encoder_models import make_inputs, prepare
from benchmarks._gpu_models import ENCODERS
from benchmarks._products import OperatorObserver
from benchmarks._report import ROOT, Report
from benchmarks.encoders import DENSE, REFERENCE, training_step
from conditional_adapters import ops
from conditional_adapters.analysis.flops import count_flops
from conditional_adapters.analysis.timing import Timing, compile_module, time_interleaved

Run = Callable[[], object]
Part = tuple[str, Callable[[], Report]]
TORCH, TRITON = "torch", "triton"
CALLS = 20  # of an operator alone, in one measurement
OPERATOR_SHAPES, HIDDEN = ((32, 512), (8, 4096)), 2048


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all cells have in common."""

    device: str
    dtype: torch.dtype
    factors: tuple[float, ...]
    backends: tuple[ops.KernelBackend, ...]
    rounds: int
    warmup: int
    is_compiled: bool = False
    is_tiny: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether graphs, memory and synchronisation can be measured."""
        return self.device == "cuda"


@dataclass(frozen=True)
class Candidate:
    """One way to run a model."""

    factor: float | None  # None: without the adapter
    backend: ops.KernelBackend = TORCH

    def apply(self, model: PreTrainedModel) -> None:
        """Make the model run this way from now on."""
        prepare(model, self.factor)
        ops.set_kernel_backend(self.backend)


def _label(factor: float) -> str:
    return REFERENCE if factor == 1 else f"r = {factor:g}"


class Subject:
    """A model on the device, what it reads, and the ways to run it.

    Args:
        name: A key of `ENCODERS`.
        batch: Rows.
        tokens: Of texts.
        settings: What all cells have in common.
    """

    def __init__(self, name: str, batch: int, tokens: int | None, settings: Settings) -> None:
        encoder = ENCODERS[name].shrunk() if settings.is_tiny else ENCODERS[name]
        batch, tokens = (2, tokens and 16) if settings.is_tiny else (batch, tokens)
        self.settings = settings
        self.model = encoder.build(settings.device, settings.dtype)
        inputs = make_inputs(self.model, batch, tokens)
        self.inputs = {key: value.to(settings.device) for key, value in inputs.items()}
        self.candidates = {DENSE: Candidate(None)} | {
            f"{_label(factor)}, {backend}": Candidate(factor, backend)
            for factor in (1.0, *settings.factors)
            for backend in settings.backends
        }
        # For what takes long: the dense adapter and r = 4.
        self.few = {k: c for k, c in self.candidates.items() if c.factor in (1.0, 4.0)}
        self.flops: dict[str, int] = {}  # by candidate, once they are counted

    def infer(self) -> object:
        """Run the model once as it stands."""
        with torch.inference_mode():
            return self.model(**self.inputs)

    def usable(
        self, make: Callable[[str], Run], candidates: Mapping[str, Candidate] | None = None
    ) -> tuple[dict[str, Run], dict[str, str]]:
        """Make what runs each candidate, by name; return that, and why others cannot be run."""
        runs: dict[str, Run] = {}
        errors: dict[str, str] = {}
        for name, candidate in (candidates or self.candidates).items():
            try:
                candidate.apply(self.model)
                runs[name] = make(name)
            except Exception as error:
                errors[name] = describe_error(error)
        return runs, errors

    def count_flops(self) -> None:
        """Count the operations of each candidate, which the kernels do not change."""
        counts: dict[float | None, int] = {}
        for name, candidate in self.candidates.items():
            if candidate.factor not in counts:
                Candidate(candidate.factor).apply(self.model)
                counts[candidate.factor] = count_flops(self.model, self.inputs)
            self.flops[name] = counts[candidate.factor]

    def rows(
        self, runs: Mapping[str, Run], errors: Mapping[str, str], *, applies: bool = True
    ) -> dict[str, Any]:
        """Time candidates in turns and set them beside the faster dense adapter and operations.

        Args:
            runs: What `usable` returns.
            errors: Likewise.
            applies: Whether the model has to be prepared for each.

        Returns:
            A row for each candidate.
        """
        times = time_interleaved(
            runs,
            prepare=(lambda name: self.candidates[name].apply(self.model)) if applies else None,
            rounds=self.settings.rounds,
            warmup=self.settings.warmup,
        )
        report: dict[str, Any] = {name: {"error": error} for name, error in errors.items()}
        dense = [name for name in times if self.candidates[name].factor == 1]
        reference = min(dense, key=lambda name: times[name].median, default=None)
        for name, timing in times.items():
            report[name] = {"milliseconds": _milliseconds(timing)}
            if reference is not None:
                speed_up = timing.speed_up(times[reference])
                report[name]["times_faster"] = round(speed_up, 3)
                if self.flops:
                    ratio = self.flops[reference] / self.flops[name]
                    report[name]["flop_ratio"] = round(ratio, 3)
                    report[name]["share_of_flop_ratio"] = round(speed_up / ratio, 3)
        return report


def forward_parts(name: str, batch: int, tokens: int | None, settings: Settings) -> Iterator[Part]:
    """Yield a forward pass: eager, as a CUDA graph, and compiled if that is asked for."""
    subject = Subject(name, batch, tokens, settings)
    yield "about", partial(_about, subject)
    yield "eager", partial(_eager, subject)
    if settings.on_gpu:
        yield "CUDA graph", partial(_graphs, subject)
    if settings.is_compiled:
        yield "compiled", partial(_compiled, subject)


def _about(subject: Subject) -> Report:
    subject.count_flops()
    Candidate(1.0).apply(subject.model)
    with torch.no_grad(), _AttentionOperators() as operators:  # as a whole in inference mode
        subject.model(**subject.inputs)
    return {
        "parameters": sum(weight.numel() for weight in subject.model.parameters()),
        "inputs": {name: list(value.shape) for name, value in subject.inputs.items()},
        "attention": subject.model.config._attn_implementation,
        "attention_operators": sorted(operators.names) or "none fused",
        "teraflops": {name: round(1e-12 * count, 3) for name, count in subject.flops.items()},
    }


class _AttentionOperators(OperatorObserver):
    """Notes which fused attention runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        """Keep the name of an attention."""
        if "scaled_dot_product" in str(func):
            self.names.add(str(func).removeprefix("aten.").removesuffix(".default"))


def _eager(subject: Subject) -> Report:
    memory: dict[str, Report] = {}

    def make(name: str) -> Run:
        memory[name] = _peak_memory(subject.infer, subject.settings)
        return subject.infer

    report = subject.rows(*subject.usable(make))
    return _joined(report, memory)


def _graphs(subject: Subject) -> Report:
    pool = torch.cuda.graph_pool_handle()  # shared: graphs never run at the same time
    made = subject.usable(lambda name: capture(subject.infer, pool).replay)
    return subject.rows(*made, applies=False)


def _compiled(subject: Subject) -> Report:
    encoder = compile_module(subject.model, variants=len(subject.few))

    def infer() -> object:
        with torch.inference_mode():
            return encoder(**subject.inputs)

    def make(name: str) -> Run:
        infer()
        return infer

    return subject.rows(*subject.usable(make, subject.few))


def capture(run: Run, pool: Any = None) -> torch.cuda.CUDAGraph:  # noqa: ANN401
    """Record what a function asks of the GPU, after it has run a few times.

    Args:
        run: Reads and writes the same memory in every call.
        pool: Shares the memory of graphs that do not run at the same time.

    Returns:
        What repeats it.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):  # leaves the stream again, whatever happens
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
            run()
    torch.cuda.synchronize()
    return graph


def _milliseconds(timing: Timing, calls: int = 1) -> Report:
    lower, median, upper = (round(1e3 * second / calls, 4) for second in timing.quartiles)
    return {"median": median, "q1": lower, "q3": upper}


def _peak_memory(run: Run, settings: Settings) -> Report:
    """Return how much memory a second call takes for itself, and with all that was there."""
    run()
    if not settings.on_gpu:
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return {
        "peak_megabytes": round(peak / 1e6),
        "peak_megabytes_of_the_call": round((peak - before) / 1e6),
    }


def _joined(report: dict[str, Any], more: Mapping[str, Report]) -> Report:
    return {name: row | more.get(name, {}) for name, row in report.items()}


def step_parts(name: str, batch: int, tokens: int | None, settings: Settings) -> Iterator[Part]:
    """Yield a training step of the new parameters."""
    yield "step", partial(_step, name, batch, tokens, settings)


def _step(name: str, batch: int, tokens: int | None, settings: Settings) -> Report:
    subject = Subject(name, batch, tokens, settings)
    subject.model.train()
    step = training_step(subject.model, subject.inputs)
    memory: dict[str, Report] = {}

    def make(name: str) -> Run:
        memory[name] = _peak_memory(step, settings)
        return step

    report = subject.rows(*subject.usable(make, subject.few))
    return _joined(report, memory)


def operator_parts(settings: Settings) -> Iterator[Part]:
    """Yield the operators of routing, alone."""
    shapes, hidden = (((2, 16),), 8) if settings.is_tiny else (OPERATOR_SHAPES, HIDDEN)
    for batch, seq in shapes:
        yield f"{batch} x {seq}, k = n / 4", partial(_operators, batch, seq, hidden, settings)


def _operators(batch: int, seq: int, hidden: int, settings: Settings) -> Report:
    """Time each operator with each backend: calls in a row, and the same calls as a graph."""
    report: Report = {}
    with ops.set_kernel_backend(TORCH):
        calls = _operator_calls(batch, seq, hidden, settings)
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
            key: {"milliseconds": _milliseconds(timing, CALLS)} for key, timing in times.items()
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
        "add_weighted_update_": without_gradient(ops.add_weighted_update_, *update),
    }


def synchronisation_parts(settings: Settings) -> Iterator[Part]:
    """Yield how often a forward pass waits for the device, dense and conditional."""
    if not settings.on_gpu:
        return
    for name, tokens in (("BERT-base", 128), ("T5-XL", 128)):
        yield name, partial(_synchronisations, name, tokens, settings)


def _synchronisations(name: str, tokens: int, settings: Settings) -> Report:
    subject = Subject(name, 2, tokens, settings)
    ids = subject.inputs["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, ids.shape[1] // 2 :] = 0
    report: Report = {}
    for key, candidate in subject.candidates.items():
        candidate.apply(subject.model)
        report[key] = {
            "without a mask": synchronisations(subject.infer),
            "with a mask": synchronisations(_inference(subject.model, ids, mask)),
        }
    return report


def _inference(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Run:
    return torch.inference_mode()(partial(model, input_ids=ids, attention_mask=mask))


def synchronisations(run: Run) -> list[str]:
    """Return the lines of code at which a call waits for the device, after a first call."""
    run()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [
        f"{_short(warning.filename)}:{warning.lineno}"
        for warning in caught
        # Not that the mode of looking for them is a prototype, which it says the first time.
        if "called a synchronizing" in str(warning.message)
    ]


def _short(path: str) -> str:
    """Return the path of a file in its package or in this repository."""
    folders = [f"{folder}{os.sep}" for folder in (ROOT, *sys.path)]
    return path.removeprefix(max((f for f in folders if path.startswith(f)), key=len, default=""))


def profile_parts(settings: Settings) -> Iterator[Part]:
    """Yield which kernels a forward pass spends its time in, dense and conditional."""
    for name, tokens in (("T5-XL", 512), ("ViT-L/16 at 224", None), ("Whisper-large-v3", None)):
        subject = Subject(name, 32, tokens, settings)
        for candidate in subject.few:
            yield f"{name}, {candidate}", partial(_profile, subject, candidate)


def _profile(subject: Subject, name: str) -> Report:
    subject.candidates[name].apply(subject.model)
    subject.infer()
    on_gpu = subject.settings.on_gpu
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        subject.infer()
        if on_gpu:
            torch.cuda.synchronize()
    return kernel_table(profiler, on_gpu=on_gpu)


def kernel_table(profiler: profile, *, on_gpu: bool, limit: int = 20) -> Report:
    """Return the kernels that take most of the time, those of a name together."""
    events = profiler.key_averages()
    if on_gpu:
        cuda = torch.autograd.DeviceType.CUDA
        spent = {e: e.self_device_time_total for e in events if e.device_type == cuda}
    else:
        spent = {event: event.self_cpu_time_total for event in events}
    slowest = sorted(spent, key=spent.__getitem__, reverse=True)[:limit]
    return {
        "milliseconds": round(sum(spent.values()) / 1e3, 3),
        "calls": sum(event.count for event in spent),
        "slowest": [
            {
                "kernel": event.key[:120],
                "milliseconds": round(spent[event] / 1e3, 3),
                "calls": event.count,
            }
            for event in slowest
        ],
    }


def describe_device(device: str) -> Report:
    """Name the GPU, and what computes on it."""
    about: Report = {"device": device}
    if device != "cuda":
        return about
    import triton

    properties = torch.cuda.get_device_properties(0)
    return about | {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gigabytes": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
        "allocator": torch.cuda.get_allocator_backend(),
        "allocator_settings": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }


def describe_error(error: Exception) -> str:
    """Return what went wrong, in a few lines, and where."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}"
    return f"{text[:600]} ({_short(where.filename)}:{where.lineno})"
