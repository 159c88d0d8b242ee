"""Compile every kernel for an H100 and print its name; run without TRITON_INTERPRET."""

import sys
from importlib import import_module

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Of hidden states, and weights of their type.
ROWS = ("values", "base", "outputs", "inputs", "grad_outputs", "states", "residual")
ROWS += ("down", "up", "norm_weight", "norm_bias")
TYPES = {
    **dict.fromkeys(
        ("logits", "weights", "grads", "out", "grad_weights", "scores", "router"), "*fp32"
    ),
    **dict.fromkeys(
        (
            "seq",
            "hidden",
            "top_k",
            "tokens_per_weight",
            "num_tokens",
            "dim",
            "heads",
            "num_sources",
        ),
        "i32",
    ),
    "epsilon": "fp32",
    "budgets": "*i32",
    "indices": "*i64",
    "is_selected": "*i1",
}


# What shapes a kernel besides sizes, in the fullest form.
CHOICES = {
    "NORM": "layer",
    "HAS_BIAS": True,
    "HAS_ROUTER": True,
    "ACTIVATION": "gelu",
    "BLOCK": 128,
    "BLOCK_TOKENS": 32,
    "BLOCK_DIM": 64,
    "BLOCK_QUERIES": 16,
}


def compile_kernel(kernel: triton.JITFunction, rows: str, *, has_ones: bool) -> None:
    """Compile for a type of hidden states; sizes of 1 are constants, as in a launch."""
    types = TYPES | dict.fromkeys(ROWS, rows)
    if not {"residual", "num_sources"}.isdisjoint(kernel.arg_names):
        types["out"] = rows
    constants = {name: 1 for name in kernel.arg_names if has_ones and types.get(name) == "i32"}
    constants |= {name: value for name, value in CHOICES.items() if name in kernel.arg_names}
    signature = {name: types.get(name) for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


for part in ("gather_scatter", "light_branch", "pairs", "selection"):
    module = import_module(f"conditional_adapters.kernels.{part}")
    for name, kernel in vars(module).items():
        if isinstance(kernel, triton.JITFunction) and name.endswith("_kernel"):
            compile_kernel(kernel, "*fp32", has_ones=False)
            compile_kernel(kernel, "*bf16", has_ones=True)
            sys.stdout.write(f"{name}\n")
