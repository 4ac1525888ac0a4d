"""What a user can cause. The command line turns these, and nothing else, into a message."""

import re
from typing import ClassVar

# Letters that steer a terminal, turn the order in which text is read, or cannot be encoded.
UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def printable(text: str) -> str:
    """The text with letters written out that would do something to whoever reads it: "\\x1b"."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


class LiteVLError(Exception):
    """A problem its reader can solve: the message says what is wrong, where, and the way out.

    What it quotes of a file is made `printable`.
    """

    exit_code: ClassVar[int] = 2
    is_shared = False  # whether all processes of a group raise it at the same place

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class SpecError(LiteVLError):
    """A reproduction file that cannot be used: unknown key, wrong type, impossible combination."""


class DataError(LiteVLError):
    """Clips, captions or annotation files that are missing, broken or not what the spec expects."""


class WeightsError(LiteVLError):
    """A checkpoint whose tensors do not fit the model, or that cannot be read."""


class ShapeError(LiteVLError):
    """A tensor whose shape is not the documented one; the message names both shapes."""


class ClusterError(LiteVLError):
    """Runs that no scheduler takes: submitit or Slurm is missing, or Slurm refuses them."""


class HubError(LiteVLError):
    """A model that the hub does not take: no token, no right to write, a name that is taken."""


class RunError(LiteVLError):
    """A run that was asked for correctly and failed: loss not finite, disk full, no permission."""

    exit_code: ClassVar[int] = 1
