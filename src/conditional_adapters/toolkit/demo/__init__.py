"""A trained adapter in a local web page: an input, a slider for r, and what the model does.

`Demonstration` says what to show for an input, in HTML, and knows nothing of a server. `app` puts
it into a Gradio app (extra `demo`), which is imported when it is built.
"""

from ._page import Answer as Answer
from .app import build_app as build_app
from .app import serve as serve
from .demonstration import Demonstration as Demonstration
