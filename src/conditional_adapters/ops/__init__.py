"""Pure functions on tensors: the arithmetic of conditional computation.

Nothing here has parameters or knows a model. `score_tokens` gives each token a score, `soft_topk`
turns scores into weights, `select_tokens` turns them into positions, `gather_tokens` and
`scatter_add_tokens` carry rows to the heavy branch and back, `gather_pairs` and
`gather_relative_bias` take masks and position biases there.
"""

from ._backend import KernelBackend as KernelBackend
from ._backend import active_kernels as active_kernels
from ._backend import set_kernel_backend as set_kernel_backend
from ._budget import clamp_size as clamp_size
from ._budget import token_budget as token_budget
from ._parts import is_recorded as is_recorded
from ._parts import num_parts as num_parts
from .gather_scatter import add_weighted_update_ as add_weighted_update_
from .gather_scatter import gather_tokens as gather_tokens
from .gather_scatter import scatter_add_tokens as scatter_add_tokens
from .gather_scatter import scatter_add_tokens_ as scatter_add_tokens_
from .pairs import gather_pairs as gather_pairs
from .pairs import gather_relative_bias as gather_relative_bias
from .pairs import relative_bias as relative_bias
from .pairs import spread_relative_bias as spread_relative_bias
from .scoring import score_tokens as score_tokens
from .selection import prefix_mask as prefix_mask
from .selection import select_tokens as select_tokens
from .soft_topk import SoftTopKMethod as SoftTopKMethod
from .soft_topk import select_and_weigh as select_and_weigh
from .soft_topk import soft_topk as soft_topk
from .static_scores import StaticRouterKind as StaticRouterKind
from .static_scores import static_positions as static_positions
from .static_scores import static_router_logits as static_router_logits
