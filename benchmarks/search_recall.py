"""Does `litevl search` find the clip that a caption was written for, as often as R@1 says?

    python -m benchmarks.search_recall reports/runs/<run id>/model

For a run of the mini profile of MSR-VTT. Its 512 test clips are indexed together with clips of the
training split, 1,000 in all, in a process that is killed once on the way; then each test caption is
searched, among the test clips alone, as the report's R@1 has it, and among all 1,000.
"""

from __future__ import annotations

import argparse
import csv
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from litevl.index import FOLDER, VideoIndex
from litevl.record import read_record

NUM_CLIPS = 1000
SECONDS_UNTIL_KILLED = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Index, kill, index again, search; 1 where fewer captions are answered than R@1 says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the model folder of a run")
    parser.add_argument("--data", type=Path, default=Path("data/mini/msrvtt"))
    arguments = parser.parse_args(argv)
    model: Path = arguments.model.resolve()
    run, reports = model.parent.name, model.parents[2]
    stated = read_record(reports / "records" / "msrvtt" / f"{run}.json").metrics.test["t2v/R@1"]
    captions = test_captions(arguments.data / "MSRVTT_JSFUSION_test.csv")
    videos = arguments.data / "videos"
    others = sorted(path for path in videos.glob("*.mp4") if path.stem not in captions)
    tested = [videos / f"{clip}.mp4" for clip in captions]
    with TemporaryDirectory(prefix="litevl-search-") as name:
        few, many = Path(name, "few"), Path(name, "many")
        link(tested, few)
        link([*tested, *others[: NUM_CLIPS - len(tested)]], many)
        kept, begun = index_twice(many, model)
        print(f"killed after {SECONDS_UNTIL_KILLED:g} s: {kept} parts kept; all in {begun:.1f} s")
        alone = share_found(VideoIndex.build(few, model), captions)
        among_all = share_found(VideoIndex.open(many), captions)
    print(f"{len(captions)} captions; the report's R@1: {stated.value:.1f}")
    print(f"right clip first among the {len(tested)} test clips: {alone:.1f} %")
    print(f"right clip first among all of them: {among_all:.1f} %")
    return int(alone < stated.value)


def test_captions(path: Path) -> dict[str, str]:
    """The caption of each test clip."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["video_id"]: row["sentence"] for row in csv.DictReader(file)}


def link(clips: Iterable[Path], folder: Path) -> None:
    """A folder that holds these clips and no other."""
    folder.mkdir()
    for clip in clips:
        (folder / clip.name).symlink_to(clip.resolve())


def index_twice(clips: Path, model: Path) -> tuple[int, float]:
    """Index in a process that is killed, then to the end: parts kept, seconds of the second."""
    command = [sys.executable, "-m", "litevl", "index", str(clips), "--model", str(model)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(SECONDS_UNTIL_KILLED)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = len(list((clips / FOLDER).glob("*.safetensors")))
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return kept, time.perf_counter() - start


def share_found(index: VideoIndex, captions: dict[str, str]) -> float:
    """Of how many captions, in percent, the first clip is the right one."""
    num_found, seconds = 0, []
    for clip, caption in captions.items():
        start = time.perf_counter()
        (hit,) = index.search(caption, top=1)
        seconds.append(time.perf_counter() - start)
        num_found += hit.path.stem == clip
    print(f"{len(index)} clips: a query takes {1000 * statistics.median(seconds):.0f} ms")
    return 100 * num_found / len(captions)


if __name__ == "__main__":
    raise SystemExit(main())
