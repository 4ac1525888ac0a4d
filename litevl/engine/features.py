"""A batch encoded in parts, by one process or several, with one loss over all of it.

A contrastive loss needs the features of the whole batch at once; the encoders do not. So the loss
is computed from features without a history, its gradients are summed over the processes, and each
process carries those of its own rows back through the encoders, part by part. A part's inner values
are computed again for that where there are several (gradient caching: Gao et al. 2021, arXiv
2101.06983), so that memory is that of one part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from litevl.engine.distributed import Group

Encode = Callable[[range], Sequence[Tensor]]


def parts_of(rows: range, at_once: int) -> list[range]:
    """The rows in pieces of `at_once`; the last may be shorter."""
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]


class Features:
    """What an encoder makes of the rows of a batch.

    whole: its outputs for all rows on every process; leaves whose gradients `backward` carries on.
    """

    def __init__(
        self, encode: Encode, count: int, at_once: int, group: Group, device: torch.device
    ) -> None:
        """encode: from rows to tensors of so many rows each. count: rows of the whole batch.

        A process without a share encodes the first row, so that it knows how features look.
        """
        self._encode, self._group, self._device = encode, group, device
        self._rows = group.share(count)
        self._parts = parts_of(self._rows, at_once)
        self._states: list[list[Tensor]] = []
        keeps_graph = len(self._parts) == 1
        outputs = []
        for part in self._parts or [range(1)]:
            self._states.append(random_state(device))
            with torch.set_grad_enabled(keeps_graph and torch.is_grad_enabled()):
                outputs.append(encode(part))
        self._graph = outputs[0] if keeps_graph else None
        self.whole: tuple[Tensor, ...] = tuple(
            group.gather(join(tensors)[: len(self._rows)], count).requires_grad_()
            for tensors in zip(*outputs, strict=True)
        )

    def backward(self) -> None:
        """Carry the gradients of `whole` on into the encoder's parameters."""
        gradients = [
            self._group.sum(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            for leaf in self.whole
        ]
        for part, state in zip(self._parts, self._states, strict=False):
            outputs = self._graph
            if outputs is None:
                with torch.random.fork_rng(cuda_devices(self._device)):
                    set_random_state(state, self._device)
                    outputs = self._encode(part)
            of_part = [gradient[part.start : part.stop] for gradient in gradients]
            needed = [(o, g) for o, g in zip(outputs, of_part, strict=True) if o.requires_grad]
            torch.autograd.backward([o for o, _ in needed], [g for _, g in needed])


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Their rows in one; without a copy where there is one tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def cuda_devices(device: torch.device) -> list[torch.device]:
    """The devices besides the CPU that draw random numbers."""
    return [device] if device.type == "cuda" else []


def random_state(device: torch.device) -> list[Tensor]:
    """Where dropout's random streams stand: the CPU's, then the device's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in cuda_devices(device))]


def set_random_state(state: Sequence[Tensor], device: torch.device) -> None:
    """Put dropout's random streams where they stood."""
    torch.set_rng_state(state[0].cpu())
    for one, of_device in zip(cuda_devices(device), state[1:], strict=True):
        torch.cuda.set_rng_state(of_device.cpu(), one)
