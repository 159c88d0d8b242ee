"""Models on a GPU, part by part, so that a failing part does not lose the others.

Each function yields the parts of one cell: a name, and a function that measures it. The model of a
cell is built once and released after the last part.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks._encoder_models import make_inputs, prepare
from benchmarks._gpu_models import ENCODERS
from benchmarks._gpu_report import describe_error, short_path
from benchmarks._products import OperatorObserver
from benchmarks._report import Report, milliseconds
from benchmarks.encoders import DENSE, REFERENCE, training_step
from conditional_adapters import ops
from conditional_adapters.analysis.flops import count_flops
from conditional_adapters.analysis.timing import time_interleaved

Run = Callable[[], object]
Part = tuple[str, Callable[[], Report]]
TORCH, TRITON = "torch", "triton"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that all cells share."""

    device: str
    dtype: torch.dtype
    factors: tuple[float, ...]
    backends: tuple[ops.KernelBackend, ...]
    rounds: int
    warmup: int
    is_tiny: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether CUDA graphs and memory can be measured."""
        return self.device == "cuda"


@dataclass(frozen=True)
class Candidate:
    """One way to run a model."""

    factor: float | None  # None: without the adapter
    backend: ops.KernelBackend = TORCH

    def apply(self, model: PreTrainedModel) -> None:
        """Switch the model to this candidate."""
        prepare(model, self.factor)
        ops.set_kernel_backend(self.backend)


def _label(factor: float) -> str:
    return REFERENCE if factor == 1 else f"r = {factor:g}"


class Subject:
    """A model on the device, its inputs and its candidates.

    Args:
        name: A key of `ENCODERS`.
        batch: Batch size.
        tokens: Length of texts.
        settings: Settings that all cells share.
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
        # Training steps are slow: the dense adapter and r = 4 alone.
        self.few = {k: c for k, c in self.candidates.items() if c.factor in (1.0, 4.0)}
        self.flops: dict[str, int] = {}  # by candidate, after `count_flops`

    def infer(self) -> object:
        """Run the model once with the current candidate."""
        with torch.inference_mode():
            return self.model(**self.inputs)

    def usable(
        self, make: Callable[[str], Run], candidates: Mapping[str, Candidate] | None = None
    ) -> tuple[dict[str, Run], dict[str, str]]:
        """Runs of the candidates, and errors of those that failed, by name."""
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
        """Count the operations of each candidate; they do not depend on the backend."""
        counts: dict[float | None, int] = {}
        for name, candidate in self.candidates.items():
            if candidate.factor not in counts:
                Candidate(candidate.factor).apply(self.model)
                counts[candidate.factor] = count_flops(self.model, self.inputs)
            self.flops[name] = counts[candidate.factor]

    def rows(
        self, runs: Mapping[str, Run], errors: Mapping[str, str], *, applies: bool = True
    ) -> dict[str, Any]:
        """Latency of candidates in turns, with speed-ups over the faster dense adapter.

        Args:
            runs: Runs by candidate, from `usable`.
            errors: Errors by candidate, from `usable`.
            applies: Whether to switch the model before each run.

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
            report[name] = {"milliseconds": milliseconds(timing, digits=4)}
            if reference is not None:
                speed_up = timing.speed_up(times[reference])
                report[name]["times_faster"] = round(speed_up, 3)
                if self.flops:
                    ratio = self.flops[reference] / self.flops[name]
                    report[name]["flop_ratio"] = round(ratio, 3)
                    report[name]["share_of_flop_ratio"] = round(speed_up / ratio, 3)
        return report


def forward_parts(name: str, batch: int, tokens: int | None, settings: Settings) -> Iterator[Part]:
    """Yield the parts of a forward pass: eager and as a CUDA graph."""
    subject = Subject(name, batch, tokens, settings)
    yield "about", partial(_about, subject)
    yield "eager", partial(_eager, subject)
    if settings.on_gpu:
        yield "CUDA graph", partial(_graphs, subject)


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
    """Collects the names of fused attention operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        """Keep the name of an attention operator."""
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


def capture(run: Run, pool: Any = None) -> torch.cuda.CUDAGraph:  # noqa: ANN401
    """Capture a function as a CUDA graph, after a few warm-up calls.

    Args:
        run: Function that reads and writes the same memory in every call.
        pool: Memory pool of graphs that do not run at the same time.

    Returns:
        The graph.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):  # restores the stream in any case
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
            run()
    torch.cuda.synchronize()
    return graph


def synchronisations(run: Run) -> list[str]:
    """Lines of code at which a call waits for the device, after a first call."""
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
        f"{short_path(warning.filename)}:{warning.lineno}"
        for warning in caught
        # torch also warns that this mode is a prototype, at its first use.
        if "called a synchronizing" in str(warning.message)
    ]


def _peak_memory(run: Run, settings: Settings) -> Report:
    """Peak memory of a second call, alone and with the memory in use before."""
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
    """Yield the parts of a training step of the new parameters."""
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
