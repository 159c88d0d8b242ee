"""Fixtures of a hub on this machine, for the `conftest.py` of a folder to import."""

import pytest
from huggingface_hub import close_session, constants

from tests.helpers.local_hub import TOKEN, running_hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; the place where huggingface_hub would find HF_HUB_CACHE."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def online(cache, monkeypatch):
    """Leave offline mode; huggingface_hub has read its environment already."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    close_session()

    def connect(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    yield connect
    close_session()


@pytest.fixture
def hub(online):
    """A hub that huggingface_hub talks to."""
    with running_hub() as hub:
        online(hub.url)
        yield hub
