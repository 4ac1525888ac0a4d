"""Many clips in killable processes: no clip, however broken, hangs or ends the parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from clips import REASONS, write_damaged

import litevl
from litevl.data.decode import DecodeJob, decode_clips
from litevl.data.processes import Failure, Work, work_on_clips
from litevl.data.video import DECODERS, read_frames
from litevl.errors import DataError


def copies(make_clip, number):
    """Jobs for as many clips of different length."""
    return [
        DecodeJob(f"clip{n}", make_clip(f"clip{n}.mp4", num_frames=8 + n)) for n in range(number)
    ]


@pytest.mark.parametrize("decoder", DECODERS)
def test_whole_and_broken_clips_each_get_their_answer(make_clip, tmp_path, decoder):
    jobs = copies(make_clip, 6)
    for damage in REASONS:
        jobs.insert(2, DecodeJob(damage, write_damaged(tmp_path / f"{damage}.mp4", damage)))
    answers = dict(decode_clips(jobs, 32, decoder, num_workers=2, timeout_seconds=30))
    assert answers.keys() == {job.clip_id for job in jobs}
    for job in jobs:
        answer = answers[job.clip_id]
        if job.clip_id in REASONS:
            assert isinstance(answer, Failure)
            assert (answer.clip_id, answer.is_lasting) == (job.clip_id, True)
            assert answer.reason.startswith(f"{job.path}: ")
        else:
            assert np.array_equal(answer, read_frames(job.path, None, 32, decoder))


def test_only_the_asked_frames_are_sent(make_clip):
    job = DecodeJob("a", make_clip(), (5, 1, 1))
    ((_, frames),) = decode_clips([job], 32, "pyav", num_workers=4, timeout_seconds=30)
    assert np.array_equal(frames, read_frames(job.path, [5, 1, 1], 32, "pyav"))


def test_no_clips_start_no_process():
    assert list(decode_clips([], 32, "pyav", num_workers=2, timeout_seconds=30)) == []


def run_and_hit_one_process(jobs, signal_number):
    """Decode with one process, which gets the signal after its first answer; all answers."""
    decoding = decode_clips(jobs, 16, "pyav", num_workers=1, timeout_seconds=1)
    answers = dict([next(decoding)])
    time.sleep(0.5)  # it has put its second answer, of 8 kB, into the pipe
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal_number)
    answers.update(decoding)
    return answers


def test_clip_that_hangs_costs_its_time_limit_and_nothing_else(make_clip):
    jobs = copies(make_clip, 5)
    answers = run_and_hit_one_process(jobs, signal.SIGSTOP)  # as deaf as a loop in native code
    failed = [answer for answer in answers.values() if isinstance(answer, Failure)]
    assert len(answers) == 5
    reason = f"{jobs[2].path}: decoding took over 1 s; stopped"
    assert failed == [Failure("clip2", reason, is_lasting=False)]


def test_clip_that_crashes_its_process_is_named(make_clip):
    jobs = copies(make_clip, 5)
    answers = run_and_hit_one_process(jobs, signal.SIGSEGV)
    failed = [answer for answer in answers.values() if isinstance(answer, Failure)]
    assert len(answers) == 5
    reason = f"{jobs[2].path}: decoding brought its process down (SIGSEGV)"
    assert failed == [Failure("clip2", reason, is_lasting=False)]


def test_interrupt_is_left_to_the_parent(make_clip):
    # Ctrl-C reaches every process of the terminal; only the parent may act on it
    answers = run_and_hit_one_process(copies(make_clip, 5), signal.SIGINT)
    assert [len(answers[f"clip{n}"]) for n in range(5)] == [8, 9, 10, 11, 12]


def test_stopping_early_leaves_no_process_behind(make_clip):
    decoding = decode_clips(copies(make_clip, 5), 16, "pyav", num_workers=2, timeout_seconds=30)
    next(decoding)
    assert multiprocessing.active_children()
    decoding.close()
    assert multiprocessing.active_children() == []


def test_frames_taken_late_are_not_overdue(make_clip):
    jobs = copies(make_clip, 3)
    decoding = decode_clips(jobs, 128, "pyav", num_workers=1, timeout_seconds=1)
    answers = [next(decoding)[1]]
    time.sleep(1.3)  # the second clip waits in its process: too large for the pipe
    answers += [answer for _, answer in decoding]
    assert [len(answer) for answer in answers] == [8, 9, 10]


def test_unknown_decoder_is_one_error_and_not_one_per_clip(make_clip):
    with pytest.raises(DataError, match="unknown decoder"):
        list(decode_clips(copies(make_clip, 2), 32, "opencv", num_workers=1, timeout_seconds=30))


def test_mistake_of_ours_is_raised_not_called_a_broken_clip(make_clip):
    job = DecodeJob("a", make_clip(), indices="wrong")
    with pytest.raises(RuntimeError, match=r"decoding DecodeJob\(clip_id='a'"):
        list(decode_clips([job], 32, "pyav", num_workers=1, timeout_seconds=30))


def ask_for_too_much(_job):
    """Fail as numpy does for the frames of a header that claims billions."""
    return np.empty((2**40, 224, 224, 3), np.uint8)


def test_clip_that_needs_more_memory_than_there_is_is_named():
    work = Work("decoding", int, ask_for_too_much, timeout_seconds=30)
    ((name, failure),) = work_on_clips([DecodeJob("a", Path("a.mp4"))], work, num_workers=1)
    assert name == "a"
    reason = "a.mp4: decoding needs more memory than there is"
    assert failure == Failure("a", reason, is_lasting=False)


SCRIPT = """
from pathlib import Path
import litevl
from litevl.data.decode import DecodeJob, decode_clips

print(list(decode_clips([DecodeJob("a", Path("a.mp4"))], 32, "pyav", 1, 30)))
"""


def test_script_without_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(litevl.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert 'needs `if __name__ == "__main__":`' in result.stderr.splitlines()[-1]


def test_progress_bar_counts_the_clips(make_clip, capsys):
    list(decode_clips(copies(make_clip, 3), 32, "pyav", 1, 30, progress=True))
    assert "3/3" in capsys.readouterr().err
