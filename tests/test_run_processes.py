"""A run of several processes, as one of them sees it; test_launch.py starts real ones."""

from unittest.mock import Mock

import pytest
import torch

from litevl import run as engine
from litevl.engine.distributed import Group
from litevl.errors import DataError, RunError
from litevl.plan import plan
from litevl.prepare import prepare
from litevl.spec import load_spec

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.mark.parametrize("is_shared", [True, False])
def test_error_of_one_process_of_several_ends_it(small, tmp_path, monkeypatch, is_shared):
    """The others wait for it, and the launcher ends them. What all raise is a failed run."""
    group, error = Group(1, 2, torch.device("cpu")), DataError("clip 7 cannot be read")
    error.is_shared = is_shared
    monkeypatch.setattr(engine, "train_and_score", Mock(side_effect=error))
    (one,) = plan(load_spec(small / "spec.toml"), "mini", ["full"], [0], None, None)
    data = prepare(one.resolved, None, False)
    if is_shared:
        assert not engine.execute(one, data, "asked for", tmp_path, group)
    else:
        with pytest.raises(RunError, match=f"{one.id}, process 1 of 2: clip 7 cannot be read"):
            engine.execute(one, data, "asked for", tmp_path, group)


def test_processes_of_a_run_that_found_other_clips_broken_do_not_train():
    engine.expect_same_clips(["a", "a"])
    with pytest.raises(RunError, match=r"different clips\n  Repeat the command"):
        engine.expect_same_clips(["a", "b"])
