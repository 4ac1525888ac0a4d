"""Training broken off inside an epoch: the same command goes on as if nothing had happened."""

import os
import signal

import pytest
import torch
from small_questions import new_objective, question_sets, task_settings, with_train

from litevl.engine import train as engine
from litevl.engine.checkpoint import read_checkpoint
from litevl.engine.train import count_steps, train
from litevl.errors import RunError
from litevl.preemption import Preempted, is_wanted, preemptible

MOMENTUM = {"momentum_encoder": True, "momentum": 0.9, "queue_size": 8, "distillation_alpha": 0.4}
CPU = torch.device("cpu")
CASES = [
    ("msrvtt", {}),
    ("msrvtt", MOMENTUM),
    ("msrvtt", {"select": "best-validation"}),
    ("msrvtt", {"device_batch_size": 2}),
    ("msvd-qa", {}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny weights, which have dropout, and frames."""
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def clips(folder):
    """The small world's clips by split. Tests do not change them."""
    return question_sets(folder, task_settings(folder, "msrvtt").model.weights)


@pytest.fixture(scope="module")
def settings_of(folder):
    """A data set's settings for three epochs, with a checkpoint after every step."""
    return lambda dataset, **changes: with_train(
        task_settings(folder, dataset), epochs=3, checkpoint_minutes=0.0, **changes
    )


def trained(settings, clips, folder, identity=None):
    """A model after training, and its history."""
    objective = new_objective(settings, clips)
    history = train(objective, settings.train, 0, None, folder, "test", identity=identity)
    return objective, history


@pytest.fixture(scope="module")
def whole_of(settings_of, clips, tmp_path_factory):
    """A data set's model after training without a break, and its history; each is trained once."""
    known = {}

    def of(dataset, **changes):
        key = (dataset, *changes.items())
        if key not in known:
            settings = with_train(settings_of(dataset, **changes), checkpoint_minutes=60.0)
            known[key] = trained(settings, clips, tmp_path_factory.mktemp("whole"))
        return known[key]

    return of


def break_off(settings, clips, folder, steps, error=KeyboardInterrupt):
    """Train until so many steps are done."""
    objective, done = new_objective(settings, clips), []
    backward = objective.backward

    def broken(*given):
        if len(done) == steps:
            raise error
        done.append(1)
        return backward(*given)

    objective.backward = broken
    with pytest.raises(error):
        train(objective, settings.train, 0, None, folder, "test")


def same_state(one, other) -> bool:
    """Whether all parts of two objectives are equal to the last bit."""
    mine, theirs = ({n: p.state_dict() for n, p in o.parts().items()} for o in (one, other))
    return all(
        torch.equal(mine[part][name], value)
        for part in theirs
        for name, value in theirs[part].items()
    )


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize(("dataset", "changes"), CASES, ids=str)
def test_run_broken_off_inside_an_epoch_equals_the_unbroken_one(
    settings_of, clips, whole_of, tmp_path, dataset, changes, steps
):
    settings = settings_of(dataset, **changes)
    whole, history = whole_of(dataset, **changes)
    break_off(settings, clips, tmp_path / "broken", steps)
    place = read_checkpoint(tmp_path / "broken" / "last.pt", CPU)["place"]
    assert place["step"] == steps
    torch.rand(7)  # what else the process may have drawn
    resumed, history_of_resumed = trained(settings, clips, tmp_path / "broken")
    assert same_state(resumed, whole)
    assert history_of_resumed == history


def test_checkpoints_within_an_epoch_come_when_they_are_due(settings_of, clips, tmp_path):
    break_off(settings_of("msrvtt"), clips, tmp_path / "always", 3)
    assert (tmp_path / "always" / "last.pt").exists()
    seldom = with_train(settings_of("msrvtt"), checkpoint_minutes=60.0)
    break_off(seldom, clips, tmp_path / "seldom", 3)
    assert not (tmp_path / "seldom" / "last.pt").exists()


def test_sigterm_ends_training_after_the_step_with_a_checkpoint(
    settings_of, clips, whole_of, tmp_path
):
    settings = with_train(settings_of("msrvtt"), checkpoint_minutes=60.0)
    whole, history = whole_of("msrvtt")
    objective, done = new_objective(settings, clips), []
    backward = objective.backward

    def terminated(*given):
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(*given)

    objective.backward = terminated
    with preemptible(), pytest.raises(Preempted):
        train(objective, settings.train, 0, None, tmp_path / "ended", "test")
    assert len(done) == 3
    assert read_checkpoint(tmp_path / "ended" / "last.pt", CPU)["place"]["step"] == 3
    resumed, history_of_resumed = trained(settings, clips, tmp_path / "ended")
    assert same_state(resumed, whole)
    assert history_of_resumed == history


def test_sigterm_after_the_last_step_ends_training_once_it_is_kept(settings_of, clips, tmp_path):
    settings = settings_of("msrvtt")
    objective = new_objective(settings, clips)
    validate, steps = objective.validate, count_steps(objective, settings.train, None)

    def terminated():
        os.kill(os.getpid(), signal.SIGTERM)
        return validate()

    objective.validate = terminated
    with preemptible(), pytest.raises(Preempted):
        train(objective, with_train(settings, epochs=1).train, 0, None, tmp_path, "test")
    place = read_checkpoint(tmp_path / "last.pt", CPU)["place"]
    assert place == {"epoch": 1, "batch": 0, "step": steps // settings.train.epochs}


@pytest.mark.parametrize("then", [0, 1], ids=["from a GPU", "to a GPU"])
def test_another_kind_of_device_goes_on_with_new_dropout(
    settings_of, clips, tmp_path, monkeypatch, then
):
    """What a GPU draws is a second state in the checkpoint."""
    settings = settings_of("msrvtt")
    states = [[torch.get_rng_state()] * 2, [torch.get_rng_state()]]
    monkeypatch.setattr(engine, "random_state", lambda _: states[then])
    break_off(settings, clips, tmp_path, 3)
    monkeypatch.setattr(engine, "random_state", lambda _: states[1 - then])
    monkeypatch.setattr(engine, "set_random_state", lambda *_: pytest.fail("another device's"))
    _, history = trained(settings, clips, tmp_path)
    assert len(history.validations) == settings.train.epochs


def test_sigterm_elsewhere_ends_the_command_at_once():
    def terminated():
        with preemptible():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on")

    with pytest.raises(Preempted):
        terminated()
    assert not is_wanted(), "an earlier signal is remembered"


def test_checkpoint_of_other_settings_or_clips_is_not_continued(settings_of, clips, tmp_path):
    settings = settings_of("msrvtt")
    identity = {"spec": {"train": {"epochs": 3}}, "fingerprint": "a"}
    trained(settings, clips, tmp_path, identity)
    other = {"spec": {"train": {"epochs": 4}}, "fingerprint": "a"}
    with pytest.raises(RunError, match=r"train\.epochs: 3 -> 4"):
        trained(settings, clips, tmp_path, other)
    with pytest.raises(RunError, match="clips or annotations changed"):
        trained(settings, clips, tmp_path, identity | {"fingerprint": "b"})


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("dataset", ["msrvtt", "msvd-qa"])
def test_run_broken_off_between_an_epochs_last_step_and_its_validation_equals_the_unbroken_one(
    settings_of, clips, whole_of, tmp_path, dataset, epoch
):
    settings = settings_of(dataset, select="best-validation")
    whole, history = whole_of(dataset, select="best-validation")
    objective, called = new_objective(settings, clips), []
    validate = objective.validate

    def broken():
        called.append(1)
        if len(called) == epoch:
            raise KeyboardInterrupt
        return validate()

    objective.validate = broken
    with pytest.raises(KeyboardInterrupt):
        train(objective, settings.train, 0, None, tmp_path / "broken", "test")
    resumed, history_of_resumed = trained(settings, clips, tmp_path / "broken")
    assert same_state(resumed, whole)
    assert history_of_resumed == history
