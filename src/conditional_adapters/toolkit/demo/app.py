"""Local Gradio app of a demonstration.

The page loads nothing from elsewhere: system fonts, no analytics, no public link. It processes one
input at a time, as r is a property of the model. Of the inputs that arrive meanwhile, only the
latest is processed.
"""

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..tasks._extras import import_extra
from ._page import page_style, render_header, render_slider, slider_script
from .demonstration import Demonstration

if TYPE_CHECKING:
    import gradio

_EXAMPLE = (
    "Shares in the bank rose to their highest level since the spring after it raised its forecast "
    "for the year. Sales had beaten the expectations of most analysts."
)
_MAX_FILE_SIZE = "50mb"
_KEEP_UPLOADS_SECONDS = 3600


def build_app(
    demonstration: Demonstration, *, title: str, description: str = ""
) -> "gradio.Blocks":
    """Build the app."""
    gr: Any = _gradio()
    uploads = (_KEEP_UPLOADS_SECONDS, _KEEP_UPLOADS_SECONDS)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=uploads) as app:
        gr.HTML(render_header(title, description), apply_default_css=False)
        with gr.Row(elem_classes="coda-columns"):
            with gr.Column(scale=2, min_width=300):
                content = _input(gr, demonstration.kind)
                slider = gr.HTML(
                    demonstration.start,
                    html_template=render_slider(
                        demonstration.factors, demonstration.start, demonstration.trained
                    ),
                    js_on_load=slider_script(),
                    apply_default_css=False,
                    stops=list(demonstration.factors),
                )
            with gr.Column(scale=3, min_width=300):
                result = gr.HTML(elem_id="result", apply_default_css=False)
        gr.on(
            [app.load, slider.input, content.change],
            demonstration.show,
            inputs=[content, slider],
            outputs=result,
            trigger_mode="always_last",
            concurrency_limit=1,
            show_progress="hidden" if demonstration.kind == "text" else "minimal",
            api_visibility="private",
        )
    return app


def serve(
    app: "gradio.Blocks",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
) -> str:
    """Start the server in a new thread; `app.block_thread()` waits, `app.close()` stops it."""
    gr: Any = _gradio()
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    try:
        _, url, _ = app.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=_MAX_FILE_SIZE,
            theme=gr.themes.Default(primary_hue="purple", neutral_hue="zinc", **fonts),
            head=f"<style>{page_style()}</style>",
        )
    except OSError as error:
        where = f"{host}:{port}" if port is not None else f"{host}, ports 7860 to 7959"
        raise ConfigError(
            f"Cannot listen on {where} ({error}). Give another --port, or --host 127.0.0.1."
        ) from error
    return str(url)


def _input(gr: Any, kind: str) -> Any:  # noqa: ANN401
    if kind == "text":
        return gr.Textbox(
            _EXAMPLE, label="Text", lines=6, max_lines=14, elem_id="text", autofocus=False
        )
    if kind == "image":
        component, sources = gr.Image, ["upload", "webcam", "clipboard"]
    else:
        component, sources = gr.Audio, ["upload", "microphone"]
    # NOTE: Gradio's buttons would share the file with a public web site.
    file = component(
        label=kind.capitalize(), sources=sources, type="filepath", buttons=[], elem_id=kind
    )
    # We check the content. A subclass would make Gradio write a stub file beside this one.
    file.preprocess = _path_of
    return file


def _path_of(payload: Any) -> str | None:  # noqa: ANN401
    return None if payload is None else str(payload.path)


def _gradio() -> Any:  # noqa: ANN401
    return import_extra("gradio", extra="demo", purpose="coda demo")
