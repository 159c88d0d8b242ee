"""Modules hold the parameters of the method and call `ops`; they know no model by name."""

from ._subclass import DynamicSubclass as DynamicSubclass
from .adapter import ParallelAdapter as ParallelAdapter
from .arguments import TokenAxis as TokenAxis
from .arguments import TokenSelection as TokenSelection
from .arguments import gathers_distances as gathers_distances
from .attention import MaskRoutedAttention as MaskRoutedAttention
from .attention import RoutedAttention as RoutedAttention
from .attention import RoutedTokens as RoutedTokens
from .conditional_layer import ConditionalLayer as ConditionalLayer
from .conditional_layer import LayerPlan as LayerPlan
from .conditional_layer import layer_states as layer_states
from .conformer import ConditionalConformerLayer as ConditionalConformerLayer
from .conformer import ConformerAttention as ConformerAttention
from .layer_adapter import LayerAdapter as LayerAdapter
from .router import Router as Router
from .router import RoutingDecision as RoutingDecision
from .rows import AdapterRows as AdapterRows
from .rows import RowScope as RowScope
from .sequence import MaskRole as MaskRole
from .sequence import SequenceContext as SequenceContext
from .switchable import SwitchableModule as SwitchableModule
