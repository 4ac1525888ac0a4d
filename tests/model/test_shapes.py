import pytest
import torch

from litevl.errors import ShapeError
from litevl.model.shapes import expect


def test_sizes_come_back_by_name():
    assert expect("frames", torch.zeros(2, 4, 3, 8, 8), "B T 3 H W", H=8) == {
        "B": 2,
        "T": 4,
        "H": 8,
        "W": 8,
    }


@pytest.mark.parametrize(
    ("shape", "pattern", "known"),
    [
        ((2, 4), "B", {}),
        ((2,), "B D", {}),
        ((2, 4), "B 3", {}),
        ((2, 4), "B B", {}),
        ((2, 4), "B D", {"D": 5}),
        ((), "B", {}),
    ],
)
def test_error_names_the_tensor_and_both_shapes(shape, pattern, known):
    with pytest.raises(ShapeError) as caught:
        expect("tokens", torch.zeros(shape), pattern, **known)
    message = str(caught.value)
    assert message.startswith(f"tokens should be ({pattern})")
    assert message.endswith(f"got {shape}")


def test_error_names_the_sizes_that_were_settled_before():
    with pytest.raises(ShapeError, match=r"\(B D\) with B=3 D=5, got \(2, 5\)"):
        expect("text", torch.zeros(2, 5), "B D", B=3, D=5)
