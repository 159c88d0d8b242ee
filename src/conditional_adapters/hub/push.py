"""Publish an adapter on the Hugging Face Hub, with its model card.

huggingface_hub does all of the work, so its settings hold: `HF_ENDPOINT`, `HF_TOKEN`,
`hf auth login`. Only the files of the adapter are uploaded.
"""

import os
import warnings
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError

from .._version import __version__
from ..checkpoint.download import REPOSITORY, HTTPError, first_line
from ..checkpoint.files import ADAPTER_FILES
from ..errors import CheckpointError
from .model_card import CARD_FILE, base_model_of, is_generated, write_model_card


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

    Creates the repository if needed. Uploads README.md and the files of the adapter, nothing else
    in the directory. A generated card is generated again first, so that its snippets load
    `repo_id`. An edited card is uploaded unchanged; if only the card on the Hub was edited, it
    stays.

    Args:
        directory: The folder of a saved adapter.
        repo_id: "user/name" or "organisation/name".
        revision: An existing branch to commit to; None means the main branch.
        private: Whether a new repository is private; None means the account's default.
        commit_message: Subject of the commit.
        create_pr: Open a pull request instead of committing to the branch.
        token: An access token; None means the one from `hf auth login` or HF_TOKEN.

    Returns:
        The URL of the commit or pull request.

    Raises:
        CheckpointError: If the adapter is missing or damaged, or the upload fails.
    """
    path = Path(directory)
    base_model = base_model_of(path)
    if not REPOSITORY.fullmatch(repo_id):
        raise CheckpointError(
            f"repo_id must be 'user/name' with letters, digits, '-', '_' and '.', got {repo_id!r}."
        )
    if base_model is None or Path(base_model).exists():
        warnings.warn(
            f"the adapter is for the base model {base_model!r}, which others do not have. Publish "
            "it too, train with its hub id, or name its location in README.md.",
            stacklevel=2,
        )
    api = HfApi(token=token, library_name="conditional-adapters", library_version=__version__)
    try:
        created = api.create_repo(repo_id, private=private, exist_ok=True)
        files = [*ADAPTER_FILES]
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
    except (OSError, HTTPError, ValueError) as error:
        reason = _upload_failure(error)
        raise CheckpointError(f"cannot publish {path} as {repo_id}: {reason}") from error
    url: str = commit.pr_url or commit.commit_url
    return url


def _has_own_card(api: HfApi, path: Path, repo_id: str, revision: str | None) -> bool:
    """Whether the card on the Hub was edited and the local one was not."""
    card = path / CARD_FILE
    if card.is_file() and not is_generated(card.read_text(encoding="utf-8")):
        return False
    try:
        remote = api.hf_hub_download(repo_id, CARD_FILE, revision=revision)
    except EntryNotFoundError:
        return False
    return not is_generated(Path(remote).read_text(encoding="utf-8"))


def _upload_failure(error: Exception) -> str:
    """Reason for a failed upload, and the remedy."""
    if constants.HF_HUB_OFFLINE:
        return "offline mode is on. Unset HF_HUB_OFFLINE."
    if isinstance(error, RevisionNotFoundError):
        return "there is no such branch. Create it first, or leave out revision."
    if isinstance(error, HfHubHTTPError):
        remedy = "Check the name and try again."
        if error.response is not None and error.response.status_code in (401, 403, 404):
            remedy = "Log in with `hf auth login`, or set HF_TOKEN, to get write access."
        return f"the Hub refused it. {remedy} ({first_line(error)})"
    if isinstance(error, HTTPError):
        return (
            f"{constants.ENDPOINT} cannot be reached. Check the network and HF_ENDPOINT. "
            f"({first_line(error)})"
        )
    return str(error)
