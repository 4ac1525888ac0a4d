"""Annotation files of the mini worlds, as the loaders of the real data sets read them."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from small import small_world

from litevl.data.didemo import load_didemo
from litevl.data.mini import plan_world
from litevl.data.mini_annotations import (
    SPLITS,
    _times,
    read_twins,
    write_annotations,
)
from litevl.data.moments import NUM_CHUNKS, sentences, spans
from litevl.data.msrvtt import load_msrvtt
from litevl.data.video_qa import load_msrvtt_qa, load_msvd_qa
from litevl.tasks import TASKS

SCENES = {"train_scenes": 60, "validation_scenes": 8, "test_scenes": 20}
ORIGINAL = {"train": "train_data.json", "validation": "val_data.json", "test": "test_data.json"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Data set -> the folder of its annotations, without clips, and the clips planned."""
    worlds = {}
    for dataset in TASKS:
        root = tmp_path_factory.mktemp(dataset)
        world = small_world(dataset, **SCENES)
        clips = plan_world(dataset, world)
        write_annotations(root, dataset, clips, world)
        worlds[dataset] = root, clips
    return worlds


def load(dataset, root):
    """The annotations, by the loader for real files."""
    if dataset == "msrvtt":
        return load_msrvtt(root, "9k")
    if dataset == "didemo":
        return load_didemo(root)
    return (load_msvd_qa if dataset == "msvd-qa" else load_msrvtt_qa)(root, 8)


def moments(root):
    """Split -> DiDeMo's entries."""
    return {split: json.loads((root / name).read_text()) for split, name in ORIGINAL.items()}


@pytest.mark.parametrize("dataset", TASKS)
def test_loader_of_the_real_data_set_reads_what_was_planned(written, dataset):
    root, clips = written[dataset]
    data = load(dataset, root)
    planned = {clip.id: clip for clip in clips}
    suffix = ".avi" if dataset == "msvd-qa" else ".mp4"
    for split, some in data.splits.items():
        assert [clip.id for clip in some if planned[clip.id].split == split] == [c.id for c in some]
        assert len(some) == 2 * SCENES[f"{split}_scenes"]
        for clip in some:
            plan = planned[clip.id]
            assert (clip.source, clip.path.name) == (plan.source, f"{clip.id}{suffix}")
            asked = tuple((question.text, question.answer) for question in clip.questions)
            assert asked == plan.questions
            if dataset == "msrvtt":
                assert clip.captions == plan.captions


@pytest.mark.parametrize("dataset", TASKS)
def test_twins_are_written_by_the_ids_that_the_loader_gives(written, dataset):
    root, clips = written[dataset]
    twin_of, data = read_twins(root), load(dataset, root)
    asked = TASKS[dataset] == "question-answering"
    some = [*data.validation, *data.test, *(data.train if asked else ())]
    assert twin_of.keys() == {clip.id for clip in some}
    scene = {clip.id: clip.scene for clip in clips}
    assert all(scene[twin] == scene[clip].twin() for clip, twin in twin_of.items())
    source = {clip.id: clip.source for clip in some}
    assert all(source[clip] == source[twin] for clip, twin in twin_of.items())


@pytest.mark.parametrize("dataset", TASKS)
def test_twins_stand_together_so_that_a_few_clips_hold_whole_pairs(written, dataset):
    root, _ = written[dataset]
    twin_of, data = read_twins(root), load(dataset, root)
    for some in (data.validation, data.test):
        pairs = zip(some[::2], some[1::2], strict=True)
        assert all(twin_of[one.id] == other.id for one, other in pairs)


def test_data_set_without_a_list_of_twins_has_none(tmp_path):
    assert read_twins(tmp_path) == {}


# DiDeMo


def test_paragraph_tells_the_events_in_order_and_that_of_the_twin_differs(written):
    root, clips = written["didemo"]
    data = load("didemo", root)
    paragraph = {c.id: c.captions for some in data.splits.values() for c in some}
    for clip, twin in zip(clips[::2], clips[1::2], strict=True):
        for one in (clip, twin):
            assert paragraph[one.id] == (" ".join(sentences(one.scene)),)
        assert paragraph[clip.id] != paragraph[twin.id]


def test_file_does_not_list_moments_in_their_order(written):
    root, clips = written["didemo"]
    place = {clip.id: dict(zip(clip.captions, range(5), strict=False)) for clip in clips}
    in_order = Counter()
    for entries in moments(root).values():
        found = {}
        for entry in entries:
            stem = entry["video"].rpartition(".")[0]
            found.setdefault(stem, []).append(place[stem][entry["description"]])
        in_order.update(places == sorted(places) for places in found.values())
    assert in_order[False] > 2 * in_order[True]


def test_entries_have_the_keys_and_names_of_the_original_files(written):
    root, _ = written["didemo"]
    every = [entry for entries in moments(root).values() for entry in entries]
    keys = ["num_segments", "description", "dl_link", "times", "video", "annotation_id"]
    assert all(list(entry) == keys and entry["num_segments"] == 6 for entry in every)
    assert [entry["annotation_id"] for entry in every] == list(range(len(every)))
    name = re.compile(r"([0-9]+@N[0-9]{2})_([0-9]{10})_[0-9a-f]{10}\.[a-z0-9]*")
    assert all(name.fullmatch(entry["video"]) for entry in every)
    endings = {entry["video"].rpartition(".")[2] for entry in every}
    assert {"mov", "mp4", "avi", ""} <= endings
    names = {}
    for entry in every:
        names.setdefault(entry["video"].rpartition(".")[0], set()).add(entry["video"])
    two = [found for found in names.values() if len(found) > 1]
    assert 0 < len(two) < len(names) / 4
    assert all({video.rpartition(".")[2] for video in found} == {"mov", "mp4"} for found in two)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (2, 3), (5, 5), (4, 5)])
def test_most_annotators_give_the_true_chunks_and_the_others_each_something_near(first, last):
    rng, num_true = np.random.default_rng(0), Counter()
    for _ in range(60):
        times = [tuple(pair) for pair in _times(first, last, rng)]
        assert len(times) == 4
        (most, count), *others = Counter(times).most_common()
        assert most == (first, last)
        assert count >= 2
        assert all(number == 1 for _, number in others)
        for start, end in times:
            assert 0 <= start <= end < NUM_CHUNKS
            assert max(abs(start - first), abs(end - last)) <= 1
        num_true[count] += 1
    assert set(num_true) == {2, 3, 4}


def test_true_chunks_are_those_in_which_the_moment_happens(written):
    root, clips = written["didemo"]
    planned = {clip.id: clip for clip in clips}
    for entry in moments(root)["test"]:
        clip = planned[entry["video"].rpartition(".")[0]]
        most = Counter(map(tuple, entry["times"])).most_common(1)[0][0]
        place = spans(clip.scene).index(most)
        assert clip.captions[place] == entry["description"]


# Question answering


@pytest.mark.parametrize("dataset", ["msvd-qa", "msrvtt-qa"])
def test_questions_are_numbered_through_all_splits_as_the_originals_are(written, dataset):
    root, clips = written[dataset]
    rows = [json.loads((root / f"{name}_qa.json").read_text()) for name in ("train", "val", "test")]
    every = [row for some in rows for row in some]
    assert [row["id"] for row in every] == list(range(len(every)))
    category = ["category_id"] if dataset == "msrvtt-qa" else []
    assert all(list(row) == ["answer", *category, "id", "question", "video_id"] for row in every)
    first = 0 if dataset == "msrvtt-qa" else 1
    assert {row["video_id"] for row in every} == set(range(first, len(clips) + first))


def test_mapping_names_each_video_with_youtubes_eleven_letters_and_two_seconds(written):
    root, clips = written["msvd-qa"]
    lines = (root / "youtube_mapping.txt").read_text().split("\n")
    assert len(lines) == len(clips)
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"[A-Za-z0-9_-]{{11}}_[0-9]+_[0-9]+ vid{number}", line)


def test_sources_of_msrvtt_qa_come_from_the_official_file(written):
    root, clips = written["msrvtt-qa"]
    notes = " ".join(load("msrvtt-qa", root).notes)
    assert f"{len(clips)} of {len(clips)} clips" in notes
    assert {clip.split for clip in clips} == set(SPLITS)
