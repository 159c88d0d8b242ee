"""Pure functions on tensors: the arithmetic of conditional computation.

Nothing here has parameters or knows a model. `light_branch` scores all tokens and adapts them,
`select_tokens` and `soft_topk` turn scores into indices and weights, `gather_tokens` and
`scatter_add_tokens` carry tokens to the frozen layer and back, `gather_pairs` and
`gather_relative_bias` do the same to masks and position biases.
"""

from ._backend import KernelBackend as KernelBackend
from ._backend import set_kernel_backend as set_kernel_backend
from ._chunks import is_tracing as is_tracing
from ._chunks import num_chunks as num_chunks
from .gather_scatter import add_weighted_update_ as add_weighted_update_
from .gather_scatter import gather_tokens as gather_tokens
from .gather_scatter import scatter_add_tokens as scatter_add_tokens
from .gather_scatter import scatter_add_tokens_ as scatter_add_tokens_
from .light_branch import ACTIVATIONS as ACTIVATIONS
from .light_branch import Norm as Norm
from .light_branch import light_branch as light_branch
from .light_branch import score_tokens as score_tokens
from .pairs import expand_relative_bias as expand_relative_bias
from .pairs import gather_pairs as gather_pairs
from .pairs import gather_relative_bias as gather_relative_bias
from .pairs import prefers_distances as prefers_distances
from .pairs import relative_bias as relative_bias
from .selection import clamp_size as clamp_size
from .selection import prefix_mask as prefix_mask
from .selection import select_and_weigh as select_and_weigh
from .selection import select_tokens as select_tokens
from .selection import token_budget as token_budget
from .soft_topk import SoftTopKMethod as SoftTopKMethod
from .soft_topk import soft_topk as soft_topk
from .static_scores import StaticRouterKind as StaticRouterKind
from .static_scores import static_positions as static_positions
from .static_scores import static_router_logits as static_router_logits
