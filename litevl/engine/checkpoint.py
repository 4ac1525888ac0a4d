"""Checkpoints: written whole or not at all, two generations kept, read without running anything.

At every moment at least one of the two stands whole under its name.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from litevl.errors import RunError
from litevl.model.checkpoints import expect_not_packed
from litevl.plan import MAY_CHANGE
from litevl.spec_problems import flat
from litevl.whole import flush_folder, whole_file

logger = logging.getLogger(__name__)

# The generation before is kept of what training continues from. An earlier best.pt would be another
# epoch, and nobody may take it for the best.
PREVIOUS = {"last.pt": "previous.pt"}
NOT_SAID = "nothing"  # in the place of a setting that one side does not have


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; what stood there becomes the generation before.

    Raises RunError where the folder cannot be written or is full; older files stay as they were.
    """
    try:
        with whole_file(path) as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # whole, before anything older loses its place
            _keep_previous(path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as RuntimeError, without the errno
        number = getattr(error, "errno", None)
        reason = "no space left" if number in (None, errno.ENOSPC) else os.strerror(number or 0)
        raise RunError(
            f"{path}: the checkpoint cannot be written ({reason}: {error})\n"
            "  Free some space or choose another --output; finished runs are kept and the same "
            "command continues."
        ) from None


def _keep_previous(path: Path) -> None:
    """Give the file its place in the generation before. A kill here leaves that one alone."""
    previous = _previous(path)
    if previous is not None and path.is_file():
        os.replace(path, previous)
        flush_folder(path.parent)


def _previous(path: Path) -> Path | None:
    return path.with_name(PREVIOUS[path.name]) if path.name in PREVIOUS else None


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint's content, or None where there is none. Only tensors and plain values load.

    Where the file is damaged the generation before is read instead, with a warning; the damaged
    one becomes `NAME.damaged.pt`, so that it never takes the place of a whole one. Raises RunError
    where all there are are damaged.
    """
    problems = []
    for place in (path, _previous(path)):
        if place is None or not place.exists():
            continue
        try:
            content = _load(place, device)
        except _DamagedError as error:
            problems.append(f"{place}: {error}")
            continue
        if problems:
            with contextlib.suppress(OSError):  # another process has done it, or nobody may
                os.replace(path, path.with_name(f"{path.stem}.damaged{path.suffix}"))
            logger.warning(
                "%s\n  Continuing from the checkpoint before, %s, after step %s.",
                *("\n".join(problems), place.name, content.get("place", content).get("step", "?")),
            )
        elif place != path:
            logger.info("%s: continuing from %s, the whole one", path, place.name)
        return content
    if problems:
        raise RunError(
            "\n".join(problems)
            + f"\n  No whole checkpoint is left: delete {path.parent} to start this run again."
        )
    return None


class _DamagedError(Exception):
    """What is wrong with a file, in words."""


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        expect_not_packed(path)
        with zipfile.ZipFile(path) as parts:  # torch writes checksums, and never looks at them
            wrong = parts.testzip()
        if wrong is not None:
            raise _DamagedError(f"the checkpoint is damaged: wrong checksum of {wrong}")
        content = torch.load(path, map_location=device, weights_only=True)
    except _DamagedError:
        raise
    except Exception as error:  # zipfile and torch raise whatever the damaged part made of it
        reason = str(error).split("\n", 1)[0][:200]
        raise _DamagedError(
            f"the checkpoint cannot be read ({error.__class__.__name__}: {reason})"
        ) from None
    if not isinstance(content, dict):
        raise _DamagedError(f"holds no checkpoint, but one {content.__class__.__name__}")
    return content


def expect_same_settings(stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RunError that lists every setting which is not as in the checkpoint.

    stored, now: resolved specs as nested tables. What MAY_CHANGE is listed in one line of the log.
    """
    before, after = (
        {key: value for key, value in flat(one).items() if value is not None}
        for one in (stored, now)
    )
    changed = {
        key: f"{key}: {before.get(key, NOT_SAID)!r} -> {after.get(key, NOT_SAID)!r}"
        for key in (*before, *(key for key in after if key not in before))
        if before.get(key, NOT_SAID) != after.get(key, NOT_SAID)
    }
    allowed = [f"{line} ({MAY_CHANGE[key]})" for key, line in changed.items() if key in MAY_CHANGE]
    if allowed:
        logger.info("continuing with other settings: %s", "; ".join(allowed))
    refused = [line for key, line in changed.items() if key not in MAY_CHANGE]
    if refused:
        raise RunError(
            f"the checkpoint was made with other settings ({len(refused)}):\n  "
            + "\n  ".join(refused)
            + "\n  Put them back, or pass --rerun to start this run again."
        )


def expect_same_data(stored: str, now: str) -> None:
    """Raise RunError where the clips or annotations are not those that training began with.

    stored, now: fingerprints of the data set.
    """
    if stored != now:
        raise RunError(
            "the clips or annotations changed since the checkpoint was written\n"
            f"  fingerprint then: {stored}\n  fingerprint now:  {now}\n"
            "  A run over both would be neither: put the files back, or pass --rerun to start "
            "this run again."
        )
