"""Find an adapter: a local directory, or a repository on the Hugging Face Hub through its cache.

huggingface_hub does all of the work, so its settings hold: `HF_HOME`, `HF_HUB_OFFLINE`,
`HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`. Only the files of the adapter are downloaded.
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
    """Return the folder of an adapter, from the Hub's cache if it is no local one.

    Args:
        source: A directory, or a hub id: "user/name". A directory that exists is taken even if its
            name could be a hub id, and so is any path that is no string.
        revision: Branch, tag or commit on the Hub; None means the main branch.

    Returns:
        The directory as given, or the one in the cache.

    Raises:
        CheckpointError: If nothing of that name is on the Hub, or it cannot be reached and the
            cache has not got it, or a revision is asked of a directory.
    """
    path = Path(source)
    is_remote = isinstance(source, str) and not path.exists() and REPOSITORY.fullmatch(source)
    if not is_remote:
        if revision is not None:
            raise CheckpointError(
                f"{source} is a directory or no hub id, and has no revision {revision!r}. Leave "
                "out revision, or give a hub id such as 'user/name'."
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
            f"{folder}, the copy of {source}, has no {TENSORS_FILE}: it is no adapter, or only a "
            "part of it is in the cache. Check the name and the revision, or load it once where "
            "there is a network."
        )
    return folder


def _why_not_found(repo_id: str, revision: str | None, error: Exception) -> str:
    """Say what is wrong with a hub id, and what to do."""
    if isinstance(error, GatedRepoError):
        return (
            f"{repo_id} on the Hub is for those who were granted access. Ask for it on its page, "
            "then log in with `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the Hub has no repository {repo_id!r} that you may read. Check the spelling; if it "
            "is private, log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{repo_id} on the Hub has no revision {revision!r}. Give a branch, tag or commit that "
            "its page lists."
        )
    cache = f"the cache ({constants.HF_HUB_CACHE}) has no whole copy of {repo_id!r}"
    cache += "" if revision is None else f" at revision {revision!r}"
    remedy = f"or load it once where there is a network (`hf download {repo_id}`)"
    if constants.HF_HUB_OFFLINE:
        return f"offline mode is on, and {cache}. Unset HF_HUB_OFFLINE, {remedy}."
    return (
        f"{constants.ENDPOINT} cannot be reached, and {cache}. Check the network and HF_ENDPOINT, "
        f"{remedy}. ({first_line(error)})"
    )


def first_line(error: Exception) -> str:
    """Return the first non-empty line of an error message, or the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
