"""What a user can cause. The command line turns these, and nothing else, into a message."""

from typing import ClassVar


class LiteVLError(Exception):
    """A problem its reader can solve: the message says what is wrong, where, and the way out."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str) -> None:
        super().__init__(message)


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


class RunError(LiteVLError):
    """A run that was asked for correctly and failed: loss not finite, disk full, no permission."""

    exit_code: ClassVar[int] = 1
