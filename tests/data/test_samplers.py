"""Samplers against tables worked by hand, and against the lines they stand for."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litevl.data.samplers import SAMPLERS

RNG = np.random.default_rng(0)
PAIRS = [(available, wanted) for available in range(1, 200) for wanted in range(1, 33)]

# sampler -> (available, wanted, expected): one frame, fewer than wanted, as many, primes, many
TABLES = {
    "blip-uniform": [
        (1, 1, [0]),
        (1, 3, [0, 0, 0]),
        (5, 1, [0]),
        (3, 4, [0, 0, 0, 0]),
        (7, 8, [0, 0, 0, 0, 0, 0, 0, 0]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (15, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (11, 5, [0, 2, 4, 6, 8]),
        (13, 4, [0, 3, 6, 9]),
        (77, 8, [0, 9, 18, 27, 36, 45, 54, 63]),
        (97, 8, [0, 12, 24, 36, 48, 60, 72, 84]),
        (100, 8, [0, 12, 24, 36, 48, 60, 72, 84]),
        (300, 8, [0, 37, 74, 111, 148, 185, 222, 259]),
        (300, 12, [0, 25, 50, 75, 100, 125, 150, 175, 200, 225, 250, 275]),
        (100_003, 4, [0, 25_000, 50_000, 75_000]),
    ],
    "lavis-uniform": [
        (1, 1, [0]),
        (1, 3, [0, 0, 0]),
        (5, 1, [0]),
        (2, 4, [0, 0, 1, 1]),
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (15, 8, [0, 1, 3, 5, 7, 9, 11, 13]),
        (7, 3, [0, 2, 4]),
        (11, 5, [0, 2, 4, 6, 8]),
        (13, 4, [0, 3, 6, 9]),
        (77, 8, [0, 9, 19, 28, 38, 48, 57, 67]),
        (97, 8, [0, 12, 24, 36, 48, 60, 72, 84]),
        (100, 8, [0, 12, 25, 37, 50, 62, 75, 87]),
        (300, 8, [0, 37, 75, 112, 150, 187, 225, 262]),
        (100_003, 4, [0, 25_000, 50_001, 75_002]),
        # arange makes an eighth index of these, 16, as 7 * (17 / 7) comes out below 17
        (17, 7, [0, 2, 4, 7, 9, 12, 14]),
        # 7 * (122 / 14) comes out below 61, and 11 * (30 / 22) below 15
        (122, 14, [0, 8, 17, 26, 34, 43, 52, 60, 69, 78, 87, 95, 104, 113]),
        (30, 22, [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 19, 20, 21, 23, 24, 25, 27, 28]),
    ],
    "segment-middle": [
        (1, 1, [0]),
        (1, 3, [0, 0, 0]),
        (5, 1, [2]),
        (10, 1, [4]),
        (3, 4, [0, 1, 2, 2]),
        (3, 6, [0, 1, 2, 2, 2, 2]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (24, 8, [1, 4, 7, 10, 13, 16, 19, 22]),
        (11, 5, [0, 2, 4, 6, 9]),
        (13, 4, [1, 4, 7, 10]),
        (77, 8, [4, 13, 23, 32, 42, 52, 61, 71]),
        (97, 8, [5, 17, 29, 41, 53, 65, 77, 90]),
        (300, 8, [18, 55, 93, 130, 168, 205, 243, 280]),
        (100_000, 4, [12_499, 37_499, 62_499, 87_499]),
    ],
}
ROWS = [(sampler, *row) for sampler, rows in TABLES.items() for row in rows]


def sampled(sampler, available, wanted, rng=RNG):
    return SAMPLERS[sampler](available, wanted, rng)


@pytest.mark.parametrize(("sampler", "available", "wanted", "expected"), ROWS)
def test_sampler_gives_the_table(sampler, available, wanted, expected):
    indices = sampled(sampler, available, wanted)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


def test_blip_uniform_is_blips_own_line():
    """`dtype=int` truncates the step, and the index with it."""
    for available, wanted in PAIRS:
        theirs = np.arange(0, available, available / wanted, dtype=int)[:wanted]
        assert sampled("blip-uniform", available, wanted).tolist() == theirs.tolist()


def test_blip_uniform_never_sees_the_tail():
    for available, wanted in PAIRS:
        unseen = available - 1 - sampled("blip-uniform", available, wanted)[-1]
        assert unseen >= available // wanted - 1
    assert sampled("blip-uniform", 127, 8)[-1] == 105  # 21 of 127 frames come after it


def test_lavis_uniform_is_laviss_own_line():
    num_longer = 0
    for available, wanted in PAIRS:
        theirs = np.arange(0, available, available / wanted).astype(int)
        num_longer += len(theirs) > wanted
        ours = sampled("lavis-uniform", available, wanted).tolist()
        assert ours == theirs[:wanted].tolist()
    assert num_longer == 197  # of 6368: LAVIS would hand over one frame too many


def test_lavis_uniform_differs_from_exact_arithmetic_by_one_frame_now_and_then():
    num_different = 0
    for available, wanted in PAIRS:
        exact = np.arange(wanted) * available // wanted
        short = exact - sampled("lavis-uniform", available, wanted)
        assert short.min() >= 0
        assert short.max() <= 1
        num_different += short.any()
    assert num_different == 18  # of 6368


def test_segment_middle_is_frozens_own_lines_but_for_their_rounding():
    num_different = 0
    for available, wanted in PAIRS:
        edges = np.linspace(0, available, min(available, wanted) + 1).astype(int)
        middles = [(first + after - 1) // 2 for first, after in itertools.pairwise(edges)]
        theirs = np.array(middles + middles[-1:] * (wanted - len(middles)))
        ours = sampled("segment-middle", available, wanted)
        assert np.abs(ours - theirs).max() <= 1
        num_different += (ours != theirs).any()
    assert num_different == 18  # of 6368


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(available=st.integers(1, 3000), wanted=st.integers(1, 64), seed=st.integers(0, 9))
def test_every_sampler_stays_in_the_clip_in_order(sampler, available, wanted, seed):
    indices = sampled(sampler, available, wanted, np.random.default_rng(seed))
    assert indices.shape == (wanted,)
    assert indices[0] >= 0
    assert indices[-1] < available
    assert (np.diff(indices) >= 0).all()


def test_short_clip_repeats_last_frame():
    for sampler in ("segment-middle", "segment-random"):
        assert sampled(sampler, 3, 6).tolist() == [0, 1, 2, 2, 2, 2]


def test_one_frame_is_repeated_by_every_sampler():
    for sampler in SAMPLERS:
        assert sampled(sampler, 1, 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("available", "wanted"), [(20, 8), (23, 5), (97, 4)])
def test_segment_random_draws_every_frame_of_a_segment_equally_often(available, wanted):
    """The last one too: Frozen's `random.choice(range(first, last))` never draws that."""
    rng, num_draws = np.random.default_rng(0), 2000
    draws = np.stack([sampled("segment-random", available, wanted, rng) for _ in range(num_draws)])
    edges = np.arange(wanted + 1) * available // wanted
    for first, after, drawn in zip(edges, edges[1:], draws.T, strict=False):
        assert drawn.min() >= first
        assert drawn.max() < after
        counts = np.bincount(drawn - first, minlength=after - first)
        expected = num_draws / (after - first)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_segment_random_is_repeated_by_its_generator_and_moves_it_on():
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    first, second = (sampled("segment-random", 100, 8, rng).tolist() for _ in range(2))
    assert first != second
    assert [sampled("segment-random", 100, 8, again).tolist() for _ in range(2)] == [first, second]


@pytest.mark.parametrize("sampler", ["blip-uniform", "lavis-uniform", "segment-middle"])
def test_other_samplers_draw_nothing(sampler):
    rng = np.random.default_rng(3)
    sampled(sampler, 100, 8, rng)
    assert rng.integers(1000) == np.random.default_rng(3).integers(1000)


@pytest.mark.parametrize(("available", "wanted"), [(0, 8), (8, 0), (-1, 8)])
def test_sampler_refuses_a_clip_without_frames_and_no_frames(available, wanted):
    for sampler in SAMPLERS:
        with pytest.raises(ValueError, match=f"cannot sample {wanted} frames of {available}"):
            sampled(sampler, available, wanted)
