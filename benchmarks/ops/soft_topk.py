"""Latency of soft top-k, next to coordinate descent from colt5-attention.

Every round draws fresh scores and measures all operators in random order, so that a busy machine
slows all of them alike; ratios are taken within a round. Scores must be fresh: the branch predictor
learns a repeated sort, which then appears several times faster than it is. benchmarks/README.md
explains the result.
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from colt5_attention import coor_descent
from torch import Tensor

from benchmarks._report import describe_run, make_parser, parse, write_report
from conditional_adapters.ops import soft_topk

SHAPE, TOP_K, EPSILON, NUM_ITERATIONS = (16, 1024), 256, 0.1, 20
CALLS_PER_ROUND = 5
WARM_UP_ROUNDS = 10
BASELINE = "coor_descent"

Operator = Callable[[Tensor], Tensor]
Quartiles = dict[str, float]
Summary = dict[str, dict[str, Quartiles]]  # by operator and measure

OPERATORS: dict[str, Operator] = {
    BASELINE: lambda logits: coor_descent(logits, n_iters=NUM_ITERATIONS, k=TOP_K, eps=EPSILON),
    "iterative": lambda logits: soft_topk(
        logits, top_k=TOP_K, epsilon=EPSILON, method="iterative", num_iterations=NUM_ITERATIONS
    ),
    "exact": lambda logits: soft_topk(logits, top_k=TOP_K, epsilon=EPSILON),
    "torch.topk": lambda logits: logits.topk(TOP_K).values,
}


def forward(operator: Operator, logits: Tensor) -> None:
    """The weights alone."""
    with torch.no_grad():
        operator(logits)


def forward_backward(operator: Operator, logits: Tensor) -> None:
    """The weights and the gradient of the logits."""
    logits = logits.detach().requires_grad_()
    weights = operator(logits)
    torch.autograd.grad(weights, logits, logits.detach()[:, : weights.shape[-1]])


PASSES = {"forward": forward, "forward_backward": forward_backward}


def check_solution() -> None:
    """Refuse to time an operator that does not solve the problem."""
    weights = OPERATORS["exact"](torch.randn(SHAPE))
    if not torch.allclose(weights.sum(-1), torch.tensor(float(TOP_K))):
        raise SystemExit("The weights of the exact method do not sum to k. Run tests/ops first.")


def measure(num_rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds per call, by pass, operator and round."""
    times: dict[str, dict[str, list[float]]] = {
        name: {operator: [] for operator in OPERATORS} for name in PASSES
    }
    cells = [(name, operator) for name in PASSES for operator in OPERATORS]
    for number in range(WARM_UP_ROUNDS + num_rounds):
        inputs = [torch.randn(SHAPE) for _ in range(CALLS_PER_ROUND)]
        for name, operator in random.sample(cells, len(cells)):
            start = time.perf_counter()
            for logits in inputs:
                PASSES[name](OPERATORS[operator], logits)
            elapsed = time.perf_counter() - start
            if number >= WARM_UP_ROUNDS:
                times[name][operator].append(1e3 * elapsed / CALLS_PER_ROUND)
    return times


def summarise(times: dict[str, list[float]]) -> Summary:
    """Median and quartiles of each operator, and its speed-up over the baseline."""
    summary: Summary = {}
    for operator, values in times.items():
        ratios = [theirs / ours for theirs, ours in zip(times[BASELINE], values, strict=True)]
        summary[operator] = {
            "milliseconds": _quartiles(values),
            "times_faster_than_baseline": _quartiles(ratios),
        }
    return summary


def _quartiles(values: list[float]) -> Quartiles:
    lower, median, upper = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "q1": round(lower, 4), "q3": round(upper, 4)}


def main() -> None:
    """Measure, print and write the result."""
    arguments = parse(make_parser(__doc__, rounds=200, output="soft_topk.json"))
    random.seed(0)
    check_solution()
    run = describe_run("benchmarks.ops.soft_topk", "colt5-attention", with_processor=True) | {
        "shape": SHAPE,
        "dtype": "float32",
        "top_k": TOP_K,
        "epsilon": EPSILON,
        "num_iterations": NUM_ITERATIONS,
        "rounds": arguments.rounds,
        "warm_up_rounds": WARM_UP_ROUNDS,
        "calls_per_round": CALLS_PER_ROUND,
    }
    results = {name: summarise(times) for name, times in measure(arguments.rounds).items()}
    write_report(arguments.output, run, results)


if __name__ == "__main__":
    main()
