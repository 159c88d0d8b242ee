"""Find an adapter in a local directory, or in a repository of the Hugging Face Hub.

Downloads go through huggingface_hub, so its cache and its settings apply: `HF_HOME`,
`HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`. Only files of the adapter are
downloaded.
"""

import os
import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]

from .._version import __version__
from ..errors import CheckpointError
from .files import ADAPTER_FILES, TENSORS_FILE

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # a hub id: "user/name"


def find_adapter_folder(source: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Return the local folder of an adapter, downloaded if needed."""
    path = Path(source)
    is_remote = isinstance(source, str) and not path.exists() and REPOSITORY.fullmatch(source)
    if not is_remote:
        if revision is not None:
            raise CheckpointError(
                f"{source} is a local path, which has no revision {revision!r}. Leave out "
                "revision, or pass a hub id such as 'user/name'."
            )
        return path
    try:
        folder = Path(
            snapshot_download(
                str(source),
                revision=revision,
                allow_patterns=list(ADAPTER_FILES),
                library_name="conditional-adapters",
                library_version=__version__,
            )
        )
    except (OSError, HTTPError, HFValidationError) as error:
        reason = _why_not_found(str(source), revision, error)
        raise CheckpointError(f"there is no directory {str(source)!r}, and {reason}") from error
    if not (folder / TENSORS_FILE).is_file():
        raise CheckpointError(
            f"{folder}, the copy of {source}, has no {TENSORS_FILE}: it is not an adapter, or the "
            "download is incomplete. Check the name and the revision, or load it once with network "
            "access."
        )
    return folder


def _why_not_found(repo_id: str, revision: str | None, error: Exception) -> str:
    """Reason and remedy of a failed download, for an error message."""
    if isinstance(error, GatedRepoError):
        return (
            f"access to {repo_id} on the Hub is restricted. Request access on its page, then log "
            "in with `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the Hub has no repository {repo_id!r} that you can read. Check the spelling. If it "
            "is private, log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{repo_id} on the Hub has no revision {revision!r}. Use a branch, tag or commit that "
            "its page lists."
        )
    cache = f"the cache ({constants.HF_HUB_CACHE}) has no complete copy of {repo_id!r}"
    cache += "" if revision is None else f" at revision {revision!r}"
    remedy = f"or load it once with network access (`hf download {repo_id}`)"
    if constants.HF_HUB_OFFLINE:
        return f"offline mode is on, and {cache}. Unset HF_HUB_OFFLINE, {remedy}."
    return (
        f"{constants.ENDPOINT} cannot be reached, and {cache}. Check the network and HF_ENDPOINT, "
        f"{remedy}. ({first_line(error)})"
    )


def first_line(error: Exception) -> str:
    """Return the first non-empty line of an error message, or the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
