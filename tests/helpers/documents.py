"""The code blocks of README and docs, and what they may name."""

import re

import typer

from conditional_adapters.toolkit.cli.main import app

from . import ROOT

COMMANDS = typer.main.get_command(app).commands
# Names of models on the Hub, and the folders of tiny models that stand in for them.
HUB_NAMES = {
    "bert-base-uncased": "bert",
    "facebook/dinov2-small": "dinov2",
    "openai/whisper-tiny.en": "whisper",
}


def snippets(path: str, language: str) -> list[str]:
    """Code blocks of a page in this language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), flags=re.DOTALL)
