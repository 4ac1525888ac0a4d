"""Clips that several tests of the data share."""

import pytest

from litevl.data.annotations import Clip


@pytest.fixture
def clips(make_clip):
    """Six clips of different length; two of each source."""
    return tuple(
        Clip(
            f"video{n}", make_clip(f"video{n}.mp4", num_frames=4 + n), f"source{n // 2}", ("a", "b")
        )
        for n in range(6)
    )
