"""Shape checks by named axes, used where tensors enter a module."""

from __future__ import annotations

from torch import Tensor

from litevl.errors import ShapeError


def expect(name: str, tensor: Tensor, pattern: str, **known: int) -> dict[str, int]:
    """Sizes of a tensor's named axes, such as {"B": 2, "T": 8}, after checking them.

    pattern: axis names or sizes, such as "B T 3 H W"; an axis named twice must have one size.
    known:   sizes that are settled already.
    Raises ShapeError with the wanted and the found shape.
    """
    sizes, axes = dict(known), pattern.split()
    fits = len(axes) == tensor.ndim
    for axis, size in zip(axes, tensor.shape, strict=False):
        wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
        fits = fits and wanted == size
    if not fits:
        wanted_sizes = " ".join(f"{axis}={size}" for axis, size in known.items())
        where = f" with {wanted_sizes}" if wanted_sizes else ""
        raise ShapeError(f"{name} should be ({pattern}){where}, got {tuple(tensor.shape)}")
    return sizes
