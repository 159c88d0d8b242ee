"""Conditional Adapters: fine-tuned Transformers that run their heavy layers on k of n tokens.

CoDA (Lei et al., arXiv:2304.04947) freezes a pretrained model, lets a router in each layer choose
the tokens that the frozen layer processes, and runs a light adapter on all of them.

    import conditional_adapters as ca

    model = ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=4))
"""

from ._version import __version__ as __version__
from .analysis import FlopCount as FlopCount
from .analysis import ParameterCount as ParameterCount
from .analysis import RoutingRecord as RoutingRecord
from .analysis import SpeedMeasurement as SpeedMeasurement
from .analysis import count_parameters as count_parameters
from .analysis import estimate_flops as estimate_flops
from .analysis import measure_speed as measure_speed
from .analysis import record_routing as record_routing
from .architectures import ArchitectureSpec as ArchitectureSpec
from .architectures import register_architecture as register_architecture
from .architectures import supported_architectures as supported_architectures
from .checkpoint import load_adapter as load_adapter
from .checkpoint import read_adapter_config as read_adapter_config
from .checkpoint import save_adapter as save_adapter
from .config import ConditionalAdapterConfig as ConditionalAdapterConfig
from .errors import AssetError as AssetError
from .errors import AttachmentError as AttachmentError
from .errors import CheckpointError as CheckpointError
from .errors import ConditionalAdapterError as ConditionalAdapterError
from .errors import ConfigError as ConfigError
from .errors import DataError as DataError
from .errors import RoutingError as RoutingError
from .errors import UnsupportedArchitectureError as UnsupportedArchitectureError
from .hub import push_to_hub as push_to_hub
from .model.attach import add_adapter as add_adapter
from .model.attach import attach as attach
from .model.attach import detach as detach
from .model.attach import remove_adapter as remove_adapter
from .model.attach import set_adapter as set_adapter
from .model.attach import set_dense_below as set_dense_below
from .model.attach import set_reduction_factor as set_reduction_factor
from .modules import RoutingDecision as RoutingDecision
from .modules import TokenAxis as TokenAxis
from .ops import soft_topk as soft_topk
from .prepacking import pack_weights as pack_weights
from .prepacking import prepack_weights as prepack_weights
from .prepacking import remove_prepacked_weights as remove_prepacked_weights
from .prepacking import unpack_weights as unpack_weights
from .toolkit import keep_former_paths as _keep_former_paths

_keep_former_paths()
