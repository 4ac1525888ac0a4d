"""Folders in which the paper profile runs without a data set: everything is invented but the form.

Annotation files have the published form, file names and counts; clips exist for the first few of
each split only, which is what `--subset` asks for; weights are random numbers in the layout of
BLIP's files. As a script:
`python tests/paper_world.py DIR [--clips N] [--size base|small]`
"""

import argparse
import itertools
import json
import tomllib
from pathlib import Path

import av
import numpy as np
from blip_files import BlipSize, write_blip

SHIPPED = Path(__file__).parents[1] / "reproductions"
SPECS = ("msrvtt", "didemo", "msvd_qa", "msrvtt_qa")
WEIGHTS = "model_base_14M.pth"
# Big enough for every text, small enough for a test.
SMALL = {"width": 64, "depth": 1, "text_width": 64, "text_depth": 1, "text_mlp_width": 64}
SMALL |= {"embed_width": 16, "queue_size": 4}
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]  # 4,900
KINDS = ("what is", "who is", "how many are", "when is", "where is")
NUM_ANSWERS = 2000  # in training; those of the other splits are now and then others
NUM_CAPTIONS = 20  # of each MSR-VTT clip
QA_FILES = {"train": "train_qa.json", "validation": "val_qa.json", "test": "test_qa.json"}
DIDEMO_FILES = {"train": "train_data.json", "validation": "val_data.json", "test": "test_data.json"}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

Names = dict[str, list[str]]  # split -> clip files below the root, in the order of the annotations


def write_world(folder, num_clips, size="base", specs=SPECS):
    """All that `litevl run reproductions/X.toml --profile paper --subset N` needs below `folder`.

    num_clips: clips written for each split.   size: of the checkpoint, "base" or "small".
    """
    write_weights(folder / "data/weights", size)
    for name in specs:
        spec = tomllib.loads((SHIPPED / f"{name}.toml").read_text(encoding="utf-8"))
        data = spec["profile"]["paper"]["data"]
        root = folder / data["root"]
        root.mkdir(parents=True)
        clips = WRITERS[name](root, data)
        some = [file for files in clips.values() for file in files[:num_clips]]
        for number, file in enumerate(some):
            write_clip(root / file, seed=number)


def write_weights(folder, size):
    """A checkpoint of BLIP's pre-training, and a vocabulary as large as its word embedding."""
    folder.mkdir(parents=True)
    words = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz0123456789", "."]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    words += sorted({word for kind in KINDS for word in kind.split()} | {"the"} | {*WORDS})
    num_words = 30522 if size == "base" else len(words)
    words += [f"[unused{number}]" for number in range(num_words - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    small = BlipSize(**SMALL, vocab_size=num_words + 2)
    write_blip(folder / WEIGHTS, BlipSize() if size == "base" else small, "pretrain", 224)


def write_clip(path, seed, size_px=(320, 240), num_frames=24):
    """A square that moves over noise: H.264, or MPEG-4 in an AVI as MSVD's clips are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, (width, height) = np.random.default_rng(seed), size_px
    ground = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            picture = ground.copy()
            left = number * (width - 40) // num_frames
            picture[60:100, left : left + 40] = rng.integers(0, 256, 3, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def sentence(number, num_words=9):
    """A sentence of its own for each number."""
    return " ".join(WORDS[(number * 7 + place * 131) % len(WORDS)] for place in range(num_words))


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


# MSR-VTT: the official JSON in two files, the 1k-A table, the 9K list.


def write_msrvtt(root, data) -> Names:
    """video0 to video9999; of the 2,990 official test clips every third or so is a 1k-A one."""
    count, num_test = 10_000, data["expected"]["test_clips"]
    test = [7010 + place * 2990 // num_test for place in range(num_test)]
    train = sorted(set(range(count)) - set(test))
    assert len(train) == data["expected"]["train_clips"]
    official = {"train_val_videodatainfo.json": (0, 7010), "test_videodatainfo.json": (7010, count)}
    for name, (first, last) in official.items():
        write_json(root / name, official_json(range(first, last)))
    rows = [f"ret{n},msr{video},video{video},{sentence(video, 8)}" for n, video in enumerate(test)]
    table = ["key,vid_key,video_id,sentence", *rows]
    (root / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    listed = ["video_id", *(f"video{video}" for video in train)]
    (root / "MSRVTT_train.9k.csv").write_text("\n".join(listed) + "\n", encoding="utf-8")
    files = {"train": train, "validation": [], "test": test}
    return {split: [f"videos/video{n}.mp4" for n in some] for split, some in files.items()}


def official_json(videos):
    """MSR-VTT's own form: videos, and sentences that are not sorted by video."""
    clips = [
        {
            "category": number % 20,
            "url": f"https://www.youtube.com/watch?v=clip{number * 7 // 10:07}",
            "video_id": f"video{number}",
            "start time": 1.0,
            "end time": 16.0,
            "split": "train" if number < 6513 else "validate" if number < 7010 else "test",
            "id": number,
        }
        for number in videos
    ]
    sentences = [
        {
            "caption": sentence(NUM_CAPTIONS * number + turn),
            "video_id": f"video{number}",
            "sen_id": NUM_CAPTIONS * number + turn,
        }
        for turn in range(NUM_CAPTIONS)
        for number in videos
    ]
    return {"info": {"year": "2016"}, "videos": clips, "sentences": sentences}


# DiDeMo: the original lists of moments.


def write_didemo(root, data) -> Names:
    """Flickr names under several extensions, among them those that the spec leaves out."""
    left_out = data["leave_out"]
    numbers, ids = itertools.count(), itertools.count(1)
    files: Names = {}
    for split, name in DIDEMO_FILES.items():
        gone = {"train": left_out[:-1], "validation": [], "test": left_out[-1:]}[split]
        kept = [didemo_stem(next(numbers)) for _ in range(data["expected"][f"{split}_clips"])]
        endings = (".mov", ".mp4", ".avi", ".m4v")
        names = [f"{stem}{endings[place % 4]}" for place, stem in enumerate(kept)]
        moments = [
            {
                "num_segments": 6,
                "description": sentence(number, 8),
                "dl_link": "https://www.flickr.com/video_download.gne?id=1",
                "times": [[turn, turn], [turn, turn], [0, 0], [turn, turn]],
                "video": video,
                "annotation_id": next(ids),
            }
            for number, video in enumerate([*names, *(f"{stem}.mov" for stem in gone)])
            for turn in (2, 0, 4, 1)
        ]
        write_json(root / name, moments)
        files[split] = [f"videos/{video}" for video in names]
    return files


def didemo_stem(number):
    return f"{10_000_000 + number // 3}@N{number % 90:02}_{3_000_000_000 + number}_{number:010x}"


# Question answering.


def write_questions(root, data, first_video, has_category) -> dict[str, list[int]]:
    """The original lists of questions; returns the video numbers of each split.

    has_category: MSRVTT-QA's rows have MSR-VTT's category, MSVD-QA's have none. first_video: split
    -> number of its first video. Clips have questions in the order of their numbers, and almost
    equally many.
    """
    videos, ids = {}, itertools.count()
    for split, name in QA_FILES.items():
        num_clips = data["expected"][f"{split}_clips"]
        num_questions = data["expected"][f"{split}_questions"]
        numbers = [first_video[split] + place for place in range(num_clips)]
        outside = 0 if split == "train" else 7  # every 14th answer is none of the training's
        rows = [
            {
                "answer": WORDS[
                    place % NUM_ANSWERS + (place % 14 == outside) * 2000 * (outside > 0)
                ],
                **({"category_id": place % 20} if has_category else {}),
                "id": next(ids),
                "question": f"{KINDS[place % 5]} the {sentence(place, 3)}?",
                "video_id": numbers[place * num_clips // num_questions],
            }
            for place in range(num_questions)
        ]
        write_json(root / name, rows)
        videos[split] = numbers
    return videos


def write_msvd_qa(root, data) -> Names:
    """vid1 to vid1970, of which the last 60 have no questions; some names start with a hyphen."""
    videos = write_questions(root, data, {"train": 1, "validation": 1162, "test": 1407}, False)
    names = {
        n: f"{'-' * (n % 43 == 1)}Youtube{n:04}_{n % 90}_{n % 90 + 10}" for n in range(1, 1971)
    }
    lines = [f"{name} vid{number}" for number, name in names.items()]
    (root / "youtube_mapping.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        split: [f"YouTubeClips/{names[number]}.avi" for number in numbers]
        for split, numbers in videos.items()
    }


def write_msrvtt_qa(root, data) -> Names:
    """The official split, and a list of 1,500 answers from answer to label."""
    videos = write_questions(root, data, {"train": 0, "validation": 6513, "test": 7010}, True)
    listed = {answer: label for label, answer in enumerate(sorted(WORDS[:1500]))}
    write_json(root / data["answers"]["file"], listed)
    return {split: [f"videos/video{n}.mp4" for n in numbers] for split, numbers in videos.items()}


WRITERS = {
    "msrvtt": write_msrvtt,
    "didemo": write_didemo,
    "msvd_qa": write_msvd_qa,
    "msrvtt_qa": write_msrvtt_qa,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--size", choices=("base", "small"), default="base")
    arguments = parser.parse_args()
    write_world(arguments.folder, arguments.clips, arguments.size)
