"""Triton kernels for the operators of `ops`, which are their reference.

Only `set_kernel_backend("triton")` imports this package. Each kernel is an operator of torch
(`torch.ops.conditional_adapters.*`), which `torch.compile` does not trace into. No kernel copies
from device to host, so CUDA graphs can capture all of them.
"""

from .gather_scatter import add_weighted_update as add_weighted_update
from .gather_scatter import add_weighted_update_ as add_weighted_update_
from .gather_scatter import gather_tokens as gather_tokens
from .light_branch import ACTIVATIONS as ACTIVATIONS
from .light_branch import MAX_ADAPTER_DIM as MAX_ADAPTER_DIM
from .light_branch import light_branch as light_branch
from .light_branch import score as score
from .pairs import gather_pairs as gather_pairs
from .selection import select as select
from .selection import select_and_weigh as select_and_weigh
from .selection import soft_topk as soft_topk
