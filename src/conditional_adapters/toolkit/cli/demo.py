"""`coda demo`: a trained adapter in a local web page."""

from pathlib import Path
from typing import Annotated

import typer

from ...checkpoint.files import TASK_FILE
from ...errors import ConfigError
from ..assets import find_adapter
from ..demo import Demonstration, build_app, serve
from ..tasks.bundle import load_trained_task, read_task
from ._console import messages

_QUICKSTART = Path("runs/quickstart/adapter")


def demo(
    adapter: Annotated[
        str | None,
        typer.Option(help="Trained adapter: folder or hub id; by default that of coda quickstart."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 allows access from the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port; by default the first free one from 7860."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Try a trained adapter in a local web page, with a slider for r.

    The input is text, an image or speech, as the adapter was trained for. The page shows the
    prediction and the measured latency, each beside the dense one (r = 1), and the routing of each
    layer. No data leave this machine. Stop the server with Ctrl-C.
    """
    if adapter is None and not (_QUICKSTART / TASK_FILE).is_file():
        raise ConfigError(
            f"coda demo needs a trained adapter, and there is none in {_QUICKSTART}. Give "
            "--adapter, or run coda quickstart first."
        )
    directory = find_adapter(adapter or str(_QUICKSTART))
    record = read_task(directory)
    demonstration = Demonstration(load_trained_task(directory))
    purpose = record.task.replace("-", " ").capitalize()
    app = build_app(
        demonstration,
        title="Conditional adapters",
        description=f"{purpose} with {record.base_model}, adapter {directory}",
    )
    url = serve(app, host=host, port=port, open_browser=browser)
    messages.print(f"open {url}\nstop with Ctrl-C")
    app.block_thread()
