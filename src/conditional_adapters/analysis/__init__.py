"""Cost and behaviour of conditional models: FLOPs, parameters, latency, routing decisions."""

from .flops import FlopCount as FlopCount
from .flops import estimate_flops as estimate_flops
from .parameters import ParameterCount as ParameterCount
from .parameters import count_parameters as count_parameters
from .router_statistics import RouterStatistics as RouterStatistics
from .router_statistics import router_statistics as router_statistics
from .routing import RoutingRecord as RoutingRecord
from .routing import record_routing as record_routing
from .speed import SpeedMeasurement as SpeedMeasurement
from .speed import measure_speed as measure_speed
