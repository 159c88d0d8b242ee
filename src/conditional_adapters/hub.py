"""Adapters on the Hugging Face Hub: find them through its cache, publish them with their card.

huggingface_hub does all of the work, so its settings hold: `HF_HOME`, `HF_HUB_OFFLINE`,
`HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`. Only the files of the adapter travel.
"""

import os
import re
import warnings
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as _HTTPError  # type: ignore[attr-defined]

from ._adapter_files import CONFIG_FILE, TASK_FILE, TENSORS_FILE
from ._measurements import MEASUREMENTS_FILE
from ._model_card import CARD_FILE, base_model_of, is_generated, write_model_card
from ._version import __version__
from .errors import CheckpointError

_FILES = [CONFIG_FILE, TENSORS_FILE, TASK_FILE, MEASUREMENTS_FILE]
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


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
    is_remote = isinstance(source, str) and not path.exists() and _REPOSITORY.fullmatch(source)
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
                allow_patterns=_FILES,
                library_name="conditional-adapters",
                library_version=__version__,
            )
        )
    except (OSError, _HTTPError, HFValidationError) as error:
        reason = _why_not_found(str(source), revision, error)
        raise CheckpointError(f"there is no directory {str(source)!r}, and {reason}") from error
    if not (folder / TENSORS_FILE).is_file():
        raise CheckpointError(
            f"{folder}, the copy of {source}, has no {TENSORS_FILE}: it is no adapter, or only a "
            "part of it is in the cache. Check the name and the revision, or load it once where "
            "there is a network."
        )
    return folder


def push_to_hub(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> str:
    """Publish a saved adapter on the Hugging Face Hub, with its model card.

    The repository is made if needed. What is uploaded are the files that `save_adapter` and `coda`
    wrote for the adapter, and README.md. A generated card is written again first, so that its
    snippets load `repo_id`; one that was edited goes up as it is, and one that was edited on the
    Hub stays there.

    Args:
        directory: What `save_adapter` wrote.
        repo_id: "user/name", or "organisation/name".
        revision: An existing branch to commit to; None means the main one.
        private: Whether a new repository is private; None means as the account is set.
        commit_message: What the commit says.
        create_pr: Propose the commit instead of making it.
        token: An access token; None means the one that `hf auth login` stored or HF_TOKEN has.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: If the adapter is missing or damaged, or the Hub does not take it.
    """
    path = Path(directory)
    base_model = base_model_of(path)
    if not _REPOSITORY.fullmatch(repo_id):
        raise CheckpointError(
            f"repo_id must be 'user/name' with letters, digits, '-', '_' and '.', got {repo_id!r}."
        )
    if base_model is None or Path(base_model).exists():
        warnings.warn(
            f"the adapter is for the base model {base_model!r}, which others do not have. Publish "
            "that as well, train with its hub id, or say in README.md where it is.",
            stacklevel=2,
        )
    api = HfApi(token=token, library_name="conditional-adapters", library_version=__version__)
    try:
        created = api.create_repo(repo_id, private=private, exist_ok=True)
        files = [*_FILES]
        if not _has_own_card(api, path, repo_id, revision):
            write_model_card(path, name=created.repo_id)
            files.append(CARD_FILE)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=path,
            allow_patterns=files,
            revision=revision,
            commit_message=commit_message or f"Upload a conditional adapter for {base_model}",
            create_pr=create_pr,
        )
    except CheckpointError:
        raise
    except (OSError, _HTTPError, ValueError) as error:
        reason = _why_not_taken(error)
        raise CheckpointError(f"cannot publish {path} as {repo_id}: {reason}") from error
    url: str = commit.pr_url or commit.commit_url
    return url


def _has_own_card(api: HfApi, path: Path, repo_id: str, revision: str | None) -> bool:
    """Tell whether the card on the Hub was edited there, and that in the directory was not."""
    card = path / CARD_FILE
    if card.is_file() and not is_generated(card.read_text(encoding="utf-8")):
        return False
    try:
        remote = api.hf_hub_download(repo_id, CARD_FILE, revision=revision)
    except EntryNotFoundError:
        return False
    return not is_generated(Path(remote).read_text(encoding="utf-8"))


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
        f"{remedy}. ({_first_line(error)})"
    )


def _why_not_taken(error: Exception) -> str:
    """Say why an upload failed, and what to do."""
    if constants.HF_HUB_OFFLINE:
        return "offline mode is on. Unset HF_HUB_OFFLINE."
    if isinstance(error, RevisionNotFoundError):
        return "there is no such branch. Make it first, or leave out revision."
    if isinstance(error, HfHubHTTPError):
        remedy = "Check the name and try again."
        if error.response is not None and error.response.status_code in (401, 403, 404):
            remedy = (
                "Log in with `hf auth login`, or set HF_TOKEN, with a token that may write to that "
                "account."
            )
        return f"the Hub refused it. {remedy} ({_first_line(error)})"
    if isinstance(error, _HTTPError):
        return (
            f"{constants.ENDPOINT} cannot be reached. Check the network and HF_ENDPOINT. "
            f"({_first_line(error)})"
        )
    return str(error)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
