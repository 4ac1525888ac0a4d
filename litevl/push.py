"""A trained model to the hub: what it takes to use it, its card, its run's record; one commit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from litevl.card import card_of, expect_hub_name, told
from litevl.errors import HubError, LiteVLError, RunError
from litevl.trained import MODEL_FILES, USE_FILE, model_folder
from litevl.whole import write_bytes

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE, RECORD_FILE, NOTICE_FILE = "README.md", "record.json", "LICENSE-BLIP.txt"
OF_THE_HUB = {".gitattributes", CARD_FILE}  # what a repository may have before anything is pushed


def push(
    model: str | Path, name: str, record: str | Path | None = None, private: bool = False
) -> str:
    """Push a trained model to OWNER/NAME; the address of its page.

    model, record: as for `litevl.card.model_card`, with its errors. private: makes a new repository
    private; without it, one is public unless OWNER has another rule. A repository that holds a
    model of litevl gets a new commit, any other is left alone. Raises HubError where the hub
    refuses, RunError where it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    files = pushed_files(model, name, record)
    if get_token() is None:
        raise HubError(
            f"{name}: nobody is logged in to the hub\n"
            "  Make a token with the right to write on the hub's page of settings, then: "
            "hf auth login"
        )
    api = HfApi(library_name="litevl")
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        expect_ours(api, name, private)
        address = api.create_repo(name, private=private or None, exist_ok=True)
        api.create_commit(name, operations, commit_message="A model of litevl, with its record")
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise refused(error, name) from error
    return str(address)


def pushed_files(
    model: str | Path, name: str, record: str | Path | None = None
) -> dict[str, Path | bytes]:
    """What a push puts into the repository, by file name: paths of files here, or their content."""
    place, found = model_folder(model), told(model, record)
    expect_hub_name(name)
    card = str(card_of(found, name))
    files: dict[str, Path | bytes] = {each: place / each for each in MODEL_FILES}
    files |= {CARD_FILE: card.encode(), RECORD_FILE: found.path}
    return files | ({NOTICE_FILE: found.licence.notice.encode()} if found.licence.notice else {})


def write_pushed(
    model: str | Path, name: str, folder: Path, record: str | Path | None = None
) -> list[Path]:
    """Write into a folder what `push` would push; the files. Asks no hub; errors as for `push`."""
    files = pushed_files(model, name, record)
    for each, content in files.items():
        write_bytes(folder / each, content if isinstance(content, bytes) else content.read_bytes())
    return [folder / each for each in files]


def expect_ours(api: HfApi, name: str, private: bool) -> None:
    """Raise HubError where the hub has a repository of that name that is not to be pushed to."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(name)
    except RepositoryNotFoundError:
        return
    names = {each.rfilename for each in found.siblings or []}
    if names - OF_THE_HUB and USE_FILE not in names:
        raise HubError(
            f"{name}: this repository holds something else, {len(names)} files without "
            f"{USE_FILE}\n  Nothing was changed. Choose another name."
        )
    if private and not found.private:
        raise HubError(
            f"{name}: this repository is there already, and public\n"
            "  Nothing was pushed. Make it private on its page of settings, or choose another name."
        )


def refused(error: Exception, name: str) -> LiteVLError:
    """What the hub library raised, as a message with the way out."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what a large file's upload met
    status = getattr(getattr(error, "response", None), "status_code", None)
    first = (str(error).strip() or repr(error)).splitlines()[0]
    if status == 401:
        return HubError(
            f"{name}: the hub does not know this token\n"
            "  It may have expired: make another on the hub's page of settings, then: hf auth login"
        )
    if status == 403:
        return HubError(
            f"{name}: this token has no right to write there\n"
            "  Push to a name of your own, or log in with a token that may write: hf auth login"
        )
    if isinstance(error, ValueError) or (status is not None and status < 500):
        return HubError(f"{name}: the hub refuses this: {first}")
    return RunError(
        f"{name}: the hub could not be reached: {first}\n"
        "  A model shows there once all of it has arrived; the same command tries again."
    )
