"""Entry point of the `coda` command; prints errors of the library as messages."""

import sys
import warnings

import typer

from ..._version import __version__
from ...errors import ConditionalAdapterError
from . import bench, demo, evaluate, export, predict, pretrain, push, quickstart, show, train, tune
from ._console import messages

app = typer.Typer(
    help="Conditional adapters (CoDA): fine-tune Transformers that skip unimportant tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(quickstart.quickstart)
app.command()(pretrain.pretrain)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(tune.tune)
app.command()(predict.predict)
app.command()(export.export)
app.command()(show.show)
app.command()(push.push)
app.command()(demo.demo)
app.command()(bench.bench)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    messages.print(f"[yellow]warning:[/] {message}", soft_wrap=True)


def main() -> None:
    """Run the command line."""
    warnings.showwarning = _show_warning
    try:
        app()
    except ConditionalAdapterError as error:
        messages.print("[bold red]error:[/]", end=" ")
        messages.print(str(error), markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        messages.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
