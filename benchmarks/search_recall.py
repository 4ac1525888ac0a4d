"""Does `litevl search` find the clip that a caption was written for, as often as R@1 says?

    python -m benchmarks.search_recall [--output DIR]

R@1 is a share of one gallery, so both are asked of the same one: `litevl run` trains `full` on the
mini profile of MSR-VTT with 1,000 clips in its test split, instead of 512, and reports R@1. Then
`litevl index` encodes these 1,000 files, in a process that is killed once on the way, and each of
their captions is searched.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import ROOT
from litevl.index import FOLDER, VideoIndex
from litevl.record import read_record

NUM_CLIPS = 1000
SECONDS_UNTIL_KILLED = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Train, index, kill, index again, search; 1 where fewer are found than R@1 says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=Path("data") / "search-recall", help="of the run; kept"
    )
    output: Path = parser.parse_args(argv).output.absolute()
    model, stated = trained(output)
    data = output / "world"
    captions = test_captions(data / "MSRVTT_JSFUSION_test.csv")
    with TemporaryDirectory(prefix="litevl-search-") as name:
        clips = Path(name, "clips")
        link((data / "videos" / f"{clip}.mp4" for clip in captions), clips)
        kept, seconds = index_twice(clips, model)
        print(f"killed after {SECONDS_UNTIL_KILLED:g} s: {kept} parts kept; all in {seconds:.1f} s")
        found = share_found(VideoIndex.open(clips), captions)
    print(f"right clip first for {found:.1f} % of {len(captions)} captions; R@1: {stated:.1f} %")
    return int(found < stated)


def trained(output: Path) -> tuple[Path, float]:
    """The folder of a model, and the R@1 of its report; a run of before serves."""
    output.mkdir(parents=True, exist_ok=True)
    spec = output / "msrvtt.toml"
    spec.write_text(with_a_thousand_clips(output / "world"), encoding="utf-8")
    command = [sys.executable, "-m", "litevl", "run", str(spec), "--profile", "mini"]
    wanted = ["--variant", "full", "--seed", "0", "--output", str(output)]
    subprocess.run([*command, *wanted], check=True)
    (record,) = (output / "records" / "msrvtt").glob("msrvtt-mini-full-s0-*.json")
    stated = read_record(record).metrics.test["t2v/R@1"]
    return output / "runs" / record.stem / "model", stated.value


def with_a_thousand_clips(world: Path) -> str:
    """The text of the shipped spec, with a larger test split in a folder of its own."""
    text = (ROOT / "reproductions" / "msrvtt.toml").read_text(encoding="utf-8")
    changes = {
        'root = "data/mini/msrvtt"': f"root = {json.dumps(str(world))}",
        "test_scenes = 256": f"test_scenes = {NUM_CLIPS // 2}",  # two clips each
        "test_clips = 512": f"test_clips = {NUM_CLIPS}",
    }
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


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
