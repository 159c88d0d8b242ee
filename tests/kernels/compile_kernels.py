"""Compile every kernel for an H100 and print its name; run without TRITON_INTERPRET."""

import sys
from importlib import import_module

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    **dict.fromkeys(("logits", "weights", "grads", "out", "values", "base"), "*fp32"),
    **dict.fromkeys(("outputs", "inputs", "grad_outputs", "grad_weights"), "*fp32"),
    **dict.fromkeys(("seq", "hidden", "top_k"), "i32"),
    "epsilon": "fp32",
    "budgets": "*i32",
    "indices": "*i64",
    "is_selected": "*i1",
    "BLOCK": "constexpr",
}

for part in ("gather_scatter", "selection", "soft_topk"):
    module = import_module(f"conditional_adapters.kernels.{part}")
    for name, kernel in vars(module).items():
        if isinstance(kernel, triton.JITFunction) and name.endswith("_kernel"):
            signature = {argument: TYPES[argument] for argument in kernel.arg_names}
            source = ASTSource(kernel, signature, constexprs={"BLOCK": 128})
            target = GPUTarget("cuda", 90, 32)
            assert triton.compile(source, target=target).asm["cubin"]
            sys.stdout.write(f"{name}\n")
