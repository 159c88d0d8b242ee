"""`coda push`: publish a trained adapter on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from ...hub.push import push_to_hub
from . import _options as options
from ._console import messages, print_json


def push(
    adapter: Annotated[Path, typer.Option(help="Folder of a trained adapter (coda train).")],
    repo: Annotated[str, typer.Option(help="Repository, USER/NAME. Created if needed.")],
    revision: Annotated[str | None, typer.Option(help="Existing branch to commit to.")] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="For a new repository; by default as set in the account.",
        ),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Publish a trained adapter on the Hugging Face Hub, with its model card.

    Log in first (hf auth login), or set HF_TOKEN. Read ADAPTER/README.md first: it becomes the
    public model card. If you edited it, it is uploaded unchanged. Otherwise it is written again
    with REPO in its snippets.
    """
    url = push_to_hub(
        adapter,
        repo,
        revision=revision,
        private=private,
        commit_message=message,
        create_pr=create_pr,
    )
    if as_json:
        print_json({"url": url})
    else:
        messages.print(f"published: {url}", markup=False)
