"""Checkpoints: written whole or not at all, read without running anything they hold."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import torch

from litevl.errors import RunError


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values under a temporary name, then rename.

    Raises RunError where the folder cannot be written or is full; an older file stays as it was.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as RuntimeError, without the errno
        with contextlib.suppress(OSError):  # gone already, or in a folder that never was
            partial.unlink()
        number = getattr(error, "errno", None)
        reason = "no space left" if number in (None, errno.ENOSPC) else os.strerror(number or 0)
        raise RunError(
            f"{path}: the checkpoint cannot be written ({reason}: {error})\n"
            "  Free some space or choose another --output; finished runs are kept and the same "
            "command continues."
        ) from None


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint's content, or None where there is none. Only tensors and plain values load.

    Raises RunError where the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises whatever the damaged part made of it
        raise RunError(
            f"{path}: the checkpoint cannot be read ({error.__class__.__name__}); "
            "delete it to start this run again"
        ) from None
    return content
