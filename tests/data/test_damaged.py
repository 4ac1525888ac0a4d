"""Two hundred damaged clips: none hangs, none brings the parent down, each is named with why.

What decodes all the same is damage that does not show: a picture with a few wrong bits, a Matroska
file that ends early, a whole clip in another container than its name says.
"""

import multiprocessing
from collections import Counter

import numpy as np
import pytest
from damaged import NUM_EACH, write_damaged_clips, write_sources

from litevl.data.decode import DecodeJob, decode_clips
from litevl.data.processes import Failure
from litevl.data.video import DECODERS, count_frames, read_frames
from litevl.errors import DataError

NEVER_DECODED = ("zero bytes", "claims too many frames")
# The fewest failures of each kind; how many more there are depends on the FFmpeg version.
FEWEST_FAILURES = {"truncated": 30, "flipped": 20, "wrong container": 20}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Paths of the damaged clips by kind, and of whole ones."""
    folder = tmp_path_factory.mktemp("damaged")
    return write_damaged_clips(folder), write_sources(folder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_each_of_two_hundred_damaged_clips_is_decoded_or_named_with_its_reason(damaged, decoder):
    by_kind, whole = damaged
    jobs = [DecodeJob(path.name, path) for paths in by_kind.values() for path in paths]
    assert len(jobs) == 200
    for number, path in enumerate(whole):
        jobs.insert(40 * number, DecodeJob(path.name, path))
    answers = dict(decode_clips(jobs, 32, decoder, num_workers=2, timeout_seconds=60))
    assert multiprocessing.active_children() == []
    assert answers.keys() == {job.clip_id for job in jobs}
    for path in whole:
        assert np.array_equal(answers[path.name], read_frames(path, None, 32, decoder))
    failed = Counter[str]()
    for kind, paths in by_kind.items():
        for path in paths:
            answer = answers[path.name]
            if isinstance(answer, Failure):
                failed[kind] += 1
                assert answer.clip_id == path.name
                assert answer.reason.startswith(f"{path}: ")
                assert len(answer.reason) > len(f"{path}: ")
                assert "\n" not in answer.reason
            else:
                assert answer.shape[1:] == (32, 32, 3)
                assert 1 <= len(answer) <= 24
    assert all(failed[kind] == NUM_EACH for kind in NEVER_DECODED)
    assert all(failed[kind] >= fewest for kind, fewest in FEWEST_FAILURES.items())


def test_truncated_avi_is_not_taken_for_a_shorter_clip(tmp_path):
    whole = write_sources(tmp_path)[2]
    content = whole.read_bytes()
    assert whole.suffix == ".avi"
    for length in (len(content) - 1, len(content) * 3 // 4, len(content) // 2):
        whole.write_bytes(content[:length])
        claims = f"claims {len(content)} bytes, {length} are there"
        with pytest.raises(DataError, match=f"truncated: its AVI header {claims}"):
            count_frames(whole)
