"""Names: one small record per family of models, and nothing else.

The mechanism is in `modules`; a record says where a family keeps its layers and what the arguments
of a layer mean.
"""

from . import bert, dinov2, t5, vit, whisper  # noqa: F401
from ._registry import architecture_of as architecture_of
from ._registry import composite_path as composite_path
from ._registry import register_architecture as register_architecture
from ._registry import supported_architectures as supported_architectures
from ._spec import ArchitectureSpec as ArchitectureSpec
