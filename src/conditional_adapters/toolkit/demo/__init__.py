"""A trained adapter in a local web page: an input, a slider for r, and the answer of the model.

`Demonstration` writes the answer to an input in HTML and is independent of the server. `app` builds
the Gradio app around it (extra `demo`).
"""

from ._page import Answer as Answer
from .app import build_app as build_app
from .app import serve as serve
from .demonstration import Demonstration as Demonstration
