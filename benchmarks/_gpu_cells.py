"""Models on a GPU, part by part, so that a part which fails takes no other with it.

Each function yields the parts of one cell: a name, and what measures it when it is called. The
model of a cell is made once, and given back with the last part.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks._encoder_models import make_inputs, prepare
from benchmarks._gpu_models import ENCODERS
from benchmarks._gpu_report import describe_error
from benchmarks._products import OperatorObserver
from benchmarks._report import Report
from benchmarks.encoders import DENSE, REFERENCE, training_step
from conditional_adapters import ops
from conditional_adapters.analysis.flops import count_flops
from conditional_adapters.analysis.timing import Timing, compile_module, time_interleaved

Run = Callable[[], object]
Part = tuple[str, Callable[[], Report]]
TORCH, TRITON = "torch", "triton"


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
            report[name] = {"milliseconds": milliseconds(timing)}
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
    def make(name: str) -> Run:
        encoder = compile_module(subject.model)

        def infer() -> object:
            with torch.inference_mode():
                return encoder(**subject.inputs)

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


def milliseconds(timing: Timing, calls: int = 1) -> Report:
    """Return median and quartiles of one of so many calls."""
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
