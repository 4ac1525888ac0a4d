"""Several processes, or parts of a batch in turn, come to what one process comes to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from several_processes import CASES, GROUPS, outcome

from litevl.engine.distributed import ALONE, Group, rows_at_once
from litevl.errors import SpecError

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the cases came to on two, three and four processes."""
    folder = tmp_path_factory.mktemp("several")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "several_processes.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-16_000:]  # the first to fail, and its peers
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """What a case comes to on one process; each is trained once."""
    known = {}

    def of(case, **changes):
        dataset, train = CASES[case]
        # None is the default, so that a case may be another one without its accumulation.
        told = {name: value for name, value in (train | changes).items() if value is not None}
        key = (dataset, *sorted(told.items()))
        if key not in known:
            output = folder / "alone" / "-".join(map(str, key))
            known[key] = outcome(case, folder, output, ALONE, **changes)
        return known[key]

    return of


def gaps(found, expected) -> torch.Tensor:
    """Between the weights of two states of a model, keys' biases left out: (P,).

    Softmax cancels these, so that their gradients are rounding errors, which AdamW makes as large
    as any other step.
    """
    gaps = []
    for name, value in expected.items():
        gap = (found[name].double() - value.double()).abs()
        if name.endswith("qkv.bias"):
            query, _, value = gap.chunk(3)
            gap = torch.cat([query, value])
        if not name.endswith("key.bias"):
            gaps.append(gap.flatten())
    return torch.cat(gaps)


def expect_same_weights(found, expected):
    """Within 1e-5, but for one weight in ten thousand: where a gradient happens to be next to 0.

    AdamW divides a gradient by its own size, so that there rounding errors move the weight.
    """
    found = gaps(found, expected)
    assert (found > 1e-5).sum() <= len(found) / 10_000
    assert found.max() <= 1e-4


def expect_same(found, expected):
    """Losses, gradients, weights and metrics agree as far as rounding lets them.

    How far that is depends on the processor: 2.2e-6 was seen without AVX-512, 1.8e-6 with.
    """
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert len(found["losses"]) == 10
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        gap = (found["gradients"][name] - gradient).abs().max().item()
        assert gap <= 4e-6 * max(1.0, gradient.abs().max().item()), name
    expect_same_weights(found["weights"], expected["weights"])
    if expected["teacher"]:
        expect_same_weights(found["teacher"], expected["teacher"])
    assert found["metrics"] == expected["metrics"]
    assert found["validations"] == expected["validations"]


@pytest.mark.parametrize(
    ("case", "size"),
    [(case, size) for size, cases in GROUPS.items() for case in cases],
)
def test_several_processes_come_to_what_one_comes_to(folder, alone, case, size):
    found = torch.load(folder / f"{case}-{size}.pt", weights_only=False)
    expect_same(found, alone(case, device_batch_size=None))
    assert all(rank == found["ranks"][0] for rank in found["ranks"]), "ranks have other weights"


@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("case", ["retrieval", "momentum"])
def test_parts_of_a_batch_one_after_the_other_come_to_the_whole(alone, case, at_once):
    expect_same(alone(case, device_batch_size=at_once), alone(case))


@pytest.mark.parametrize("at_once", [1, 3, 6])
def test_questions_in_parts_come_to_the_whole(alone, at_once):
    expect_same(alone("answering", device_batch_size=at_once), alone("answering"))


# How a batch is divided


@pytest.mark.parametrize(("count", "size"), [(8, 1), (8, 2), (5, 4), (3, 4), (9, 4), (1, 3)])
def test_every_row_is_one_process_s(count, size):
    shares = [Group(rank, size, CPU).share(count) for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) == -(-count // size)


def test_batch_that_cannot_be_divided_is_an_error():
    assert rows_at_once(16, None, Group(1, 4, CPU)) == 4
    assert rows_at_once(16, 2, Group(1, 4, CPU)) == 2
    with pytest.raises(SpecError, match="batch_size: 16 cannot be divided among 3 processes"):
        rows_at_once(16, None, Group(0, 3, CPU))
    with pytest.raises(SpecError, match=r"3 at once do not divide the 4 of (.|\n)*one of 1, 2, 4,"):
        rows_at_once(16, 3, Group(0, 4, CPU))
