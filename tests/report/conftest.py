"""Fixtures that tests of reports share."""

from collections.abc import Iterator
from unittest import mock

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def no_pictures() -> Iterator[None]:
    """Draw the figures but leave their files empty: rendering takes most of a report's time."""
    with mock.patch.object(Figure, "savefig"):
        yield
