"""The operators as Triton kernels, one program per row or per chosen token.

Imported by `set_kernel_backend("triton")` alone. Each kernel is an operator of torch
(`torch.ops.conditional_adapters.*`), which `torch.compile` takes as a whole, and none asks the
device anything, so that CUDA graphs can capture them. Their oracles are the operators of
`conditional_adapters.ops`, and of `light_branch` the modules that it stands for.
"""

from .gather_scatter import add_weighted_update as add_weighted_update
from .gather_scatter import add_weighted_update_ as add_weighted_update_
from .gather_scatter import gather_rows as gather_rows
from .light_branch import ACTIVATIONS as ACTIVATIONS
from .light_branch import MAX_ADAPTER_DIM as MAX_ADAPTER_DIM
from .light_branch import Norm as Norm
from .light_branch import light_branch as light_branch
from .pairs import gather_pairs as gather_pairs
from .scoring import score as score
from .selection import select as select
from .selection import select_and_weigh as select_and_weigh
from .soft_topk import soft_topk as soft_topk
