"""Fixtures that several test files share."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import write_clip


def work_here(jobs, work, _num_workers, _progress=False):
    """As `work_on_clips`, without its processes, their time limits and the bar."""
    from litevl.data.processes import Failure
    from litevl.errors import DataError

    do = pickle.loads(pickle.dumps(work)).do  # what cannot travel to a process fails here too
    for job in jobs:
        try:
            yield job.clip_id, do(job)
        except DataError as error:
            yield job.clip_id, Failure(job.clip_id, str(error), is_lasting=True)


@pytest.fixture(scope="module")
def in_this_process():
    """Work on clips without other processes: each costs more to start than it does in a test."""
    from litevl.data import decode, prepared

    with pytest.MonkeyPatch.context() as patch:
        for user in (decode, prepared):
            patch.setattr(user, "work_on_clips", work_here)
        yield


@pytest.fixture
def with_processes(monkeypatch):
    """Work on clips as it really goes, in one test of a module that is `in_this_process`."""
    from litevl.data import decode, prepared, processes

    for user in (decode, prepared):
        monkeypatch.setattr(user, "work_on_clips", processes.work_on_clips)


@pytest.fixture
def make_clip(tmp_path):
    """Return a function that writes a tiny H.264 clip (see `clips.write_clip`) by file name."""

    def make(name: str = "clip.mp4", **kwargs) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_clip(path, **kwargs)

    return make


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Return a folder with a tiny world, tiny weights and a spec of both (see `small.py`).

    Tests do not change what is in it.
    """
    from small import small_settings, small_world, write_spec, write_weights  # these load torch

    from litevl.data.mini import ensure_world

    folder = tmp_path_factory.mktemp("small")
    ensure_world(folder / "world", "msrvtt", small_world(), num_workers=1, progress=False)
    write_spec(folder / "spec.toml", small_settings(folder / "world", write_weights(folder)))
    return folder


@pytest.fixture(scope="session")
def small_of(small, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a data set to a folder like `small`'s, made when first asked for."""
    from small import small_settings, small_world, write_spec

    from litevl.data.mini import ensure_world

    made = {"msrvtt": small}

    def folder_of(dataset) -> Path:
        if dataset not in made:
            folder = made[dataset] = tmp_path_factory.mktemp(dataset)
            # A seed with test questions of every type, and which some constant answers get right.
            world = small_world(dataset, seed=5)
            ensure_world(folder / "world", dataset, world, num_workers=1, progress=False)
            weights = small / "model.safetensors"
            spec = small_settings(folder / "world", weights, world, dataset)
            write_spec(folder / "spec.toml", spec)
        return made[dataset]

    return folder_of


@pytest.fixture(scope="session")
def annotations() -> Path:
    """Return the folder of real annotation files; they are never part of the project."""
    folder = os.environ.get("LITEVL_ANNOTATIONS")
    if not folder:
        pytest.skip("needs the annotation files: LITEVL_ANNOTATIONS names no folder")
    return Path(folder)
