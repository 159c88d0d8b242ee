"""Time soft top-k against coordinate descent as published in colt5-attention.

Every round draws fresh scores and measures all operators one after the other, in an order that
changes, so that a busy machine slows all of them alike; ratios are taken within a round. Fresh
scores matter: a sort of the same numbers again and again is learned by the branch predictor and
appears several times faster than it is. See benchmarks/README.md for how to read the result.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from colt5_attention import coor_descent
from torch import Tensor

from benchmarks._report import RESULTS, describe_run, write_report
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
    """Compute weights only."""
    with torch.no_grad():
        operator(logits)


def forward_backward(operator: Operator, logits: Tensor) -> None:
    """Compute weights and the gradient of the logits for some cotangent."""
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
    """Return milliseconds per call, by pass, operator and round."""
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
    """Return the median and quartiles of each operator, and how much faster than the baseline."""
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


def print_table(results: dict[str, Summary]) -> None:
    """Print medians with quartiles in brackets, one line per pass and operator."""
    print(f"{'pass':18}{'operator':14}{'ms':24}times faster than {BASELINE}")
    for name, summary in results.items():
        for operator, cell in summary.items():
            columns = [f"{q['median']:.3f} [{q['q1']:.3f}, {q['q3']:.3f}]" for q in cell.values()]
            print(f"{name:18}{operator:14}{columns[0]:24}{columns[1]}")


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="measured rounds, at least 2")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, default=RESULTS / "soft_topk.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
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
    print_table(results)


if __name__ == "__main__":
    main()
