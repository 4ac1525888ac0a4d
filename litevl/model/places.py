"""What a spec may name as weights, and where it lies on this machine.

    mini-blip                  ships with the package
    data/weights/my.pth        a file, or a folder of transformers'
    blip:model_base_14M        a checkpoint of salesforce/BLIP; it lies in data/weights/<file>
    hub:OWNER/NAME[@REVISION]  a transformers checkpoint; it lies in data/weights/hub/OWNER/NAME

`litevl data fetch` fetches the last two to their places; loading fetches nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from litevl.assets import MINI_BLIP
from litevl.data.sources import sources
from litevl.errors import DataError, RunError, WeightsError

if TYPE_CHECKING:
    from litevl.download import Fetched

WEIGHTS = Path("data/weights")
HUB_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?")
WHOLE = ("model.safetensors", "pytorch_model.bin")  # safetensors where there is a choice


def weights_path(source: str | Path, root: Path = WEIGHTS) -> Path:
    """Where a checkpoint lies, or would lie. Raises WeightsError for a name that is none.

    root: the folder for what is fetched by name.
    """
    name = str(source)
    if name == "mini-blip":
        return MINI_BLIP
    if name.startswith("blip:"):
        try:
            return root / sources(name).files[0].path
        except DataError as error:
            raise WeightsError(str(error)) from None
    if name.startswith("hub:"):
        repository, revision = hub_name(name)
        folder = root / "hub" / repository
        return folder if revision is None else folder.with_name(f"{folder.name}@{revision}")
    return Path(source)


def vocabulary_beside(source: str | Path) -> Path:
    """Where the vocab.txt of a checkpoint lies if it comes with one."""
    path = weights_path(source)
    return (path if path.is_dir() else path.parent) / "vocab.txt"


def require_weights(source: str | Path) -> Path:
    """Where a checkpoint lies. Raises WeightsError where it is not there, with the way to it."""
    path = weights_path(source)
    if not path.exists():
        way_out = fetch_command(source) or "give 'mini-blip' or a checkpoint's path"
        raise WeightsError(f"{path}: no such file; {way_out}")
    return path


def fetch_command(source: str | Path) -> str | None:
    """The command that puts a checkpoint where it is looked for; None where there is none."""
    name = str(source)
    if not name.startswith(("blip:", "hub:")):
        name = f"blip:{Path(source).stem}"
        try:
            if weights_path(name) != Path(source):
                return None
        except WeightsError:
            return None
    return f"litevl data fetch {name}"


def revision_of(path: Path) -> str | None:
    """The commit of the hub repository that a folder was fetched from."""
    note = path / "revision.txt"
    return note.read_text(encoding="utf-8").strip() if note.is_file() else None


def fetch_from_hub(
    source: str, root: Path = WEIGHTS, endpoint: str | None = None
) -> tuple[Fetched, ...]:
    """Fetch "hub:OWNER/NAME[@REVISION]" to its place: configuration, weights, vocabulary if any.

    What is there stays; without a revision, later calls keep to the commit of the first.
    endpoint: the hub's address, or None. Raises WeightsError where it is no checkpoint, DataError
    and RunError as `litevl.download` does.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    from litevl.download import fetch_hub
    from litevl.whole import write_bytes

    repository, revision = hub_name(source)
    folder = weights_path(source, root)
    revision = revision_of(folder) or revision
    config = fetch_hub(repository, ["config.json"], folder, revision=revision, endpoint=endpoint)
    commit = config[0].revision
    try:
        siblings = HfApi(endpoint=endpoint).model_info(repository, revision=commit).siblings
    except (HTTPError, OSError) as error:
        raise RunError(f"{repository}: the hub could not be reached: {error}") from error
    names = {each.rfilename for each in siblings or []}
    write_bytes(folder / "revision.txt", f"{commit}\n".encode())
    wanted = weight_files(repository, names) + sorted({"vocab.txt"} & names)
    return config + fetch_hub(repository, wanted, folder, revision=commit, endpoint=endpoint)


def weight_files(repository: str, names: set[str]) -> list[str]:
    """The files of weights to fetch, or their pattern, of those that a repository has."""
    for whole in WHOLE:
        if whole in names:
            return [whole]
        if f"{whole}.index.json" in names:
            stem, _, suffix = whole.rpartition(".")
            return [f"{whole}.index.json", f"{stem}-*-of-*.{suffix}"]
    raise WeightsError(f"{repository}: no weights; looked for {' and '.join(WHOLE)}")


def hub_name(source: str) -> tuple[str, str | None]:
    """The repository and the revision in "hub:OWNER/NAME[@REVISION]"."""
    match = HUB_NAME.fullmatch(source)
    if match is None or ".." in source:
        raise WeightsError(f"{source}: expected hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    return match[1], match[2]
