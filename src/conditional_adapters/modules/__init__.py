"""Modules hold the parameters of the method and call `ops`; they know no model by name.

Start with `conditional_layer`. It asks a `Branch` (`adapter`, or `mixed_batch` with several
adapters) for the budget, the light branch and the routing decision, and calls the frozen layer on
the gathered `arguments`.
"""

from ._subclass import DynamicSubclass as DynamicSubclass
from .adapter import AttentionMode as AttentionMode
from .adapter import LayerAdapter as LayerAdapter
from .adapter import ParallelAdapter as ParallelAdapter
from .arguments import TokenAxis as TokenAxis
from .arguments import TokenSelection as TokenSelection
from .attention import MaskRoutedAttention as MaskRoutedAttention
from .attention import RoutedAttention as RoutedAttention
from .attention import RoutedTokens as RoutedTokens
from .conditional_layer import ConditionalLayer as ConditionalLayer
from .conditional_layer import layer_states as layer_states
from .conformer import ConditionalConformerLayer as ConditionalConformerLayer
from .conformer import ConformerAttention as ConformerAttention
from .context import ContextHook as ContextHook
from .context import ForwardScope as ForwardScope
from .context import MaskRole as MaskRole
from .context import SequenceContext as SequenceContext
from .mixed_batch import AdapterBatch as AdapterBatch
from .mixed_batch import AdapterNamesHook as AdapterNamesHook
from .router import Router as Router
from .router import RoutingDecision as RoutingDecision
from .spec import ArchitectureSpec as ArchitectureSpec
from .switchable import SwitchableModule as SwitchableModule
