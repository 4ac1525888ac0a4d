"""The training loop of both tasks: when it stops, and that a broken-off run continues the same."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_questions import new_objective, question_sets, task_settings, with_train
from tqdm import tqdm

from litevl.engine import train as engine
from litevl.engine.checkpoint import read_checkpoint, write_checkpoint
from litevl.engine.clips import ClipSet
from litevl.engine.train import (
    NOT_FINITE_FILE,
    count_steps,
    learning_rate_factor,
    make_optimizer,
    train,
)
from litevl.errors import RunError

MOMENTUM = {"momentum_encoder": True, "momentum": 0.9, "queue_size": 8, "distillation_alpha": 0.4}
BEST = {"select": "best-validation"}
RETRIEVAL, ANSWERING = "msrvtt", "msvd-qa"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny weights. Tests do not change them."""
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def both(folder):
    """The `full` variant of either task under the mini profile."""
    return {
        name: with_train(task_settings(folder, name), select="last")
        for name in (RETRIEVAL, ANSWERING)
    }


@pytest.fixture(params=[RETRIEVAL, ANSWERING])
def settings(request, both):
    """Each task's settings, one after the other."""
    return both[request.param]


@pytest.fixture(scope="module")
def clips(folder, both) -> dict[str, ClipSet]:
    """The small world's clips by split, with questions. Tests do not change them."""
    return question_sets(folder, Path(both[RETRIEVAL].model.weights))


def trained(settings, clips, folder, seed=0, max_steps=None):
    """A model after training, and its history."""
    objective = new_objective(settings, clips, seed)
    history = train(objective, settings.train, seed, max_steps, folder, "test")
    return objective.model, history


def steps_of(settings, clips, epochs=1) -> int:
    """Batches in the first epochs."""
    return sum(new_objective(settings, clips).num_batches(epoch) for epoch in range(epochs))


def same_weights(one, other) -> bool:
    """Whether two models are equal to the last bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


# The schedule


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.5), (1, 1.0), (2, 1.0), (6, 0.5), (10, 0.0), (4, 0.5 * (1 + math.cos(math.pi / 4)))],
)
def test_learning_rate_warms_up_linearly_and_falls_as_half_a_cosine(step, factor):
    assert learning_rate_factor(step, total=10, warmup_fraction=0.2) == pytest.approx(factor)


@pytest.mark.parametrize("warmup_fraction", [0.0, 1.0])
def test_learning_rate_of_one_step_is_the_peak(warmup_fraction):
    assert learning_rate_factor(0, total=1, warmup_fraction=warmup_fraction) == 1.0


def test_new_parameters_have_their_own_learning_rate(settings, clips):
    model = new_objective(settings, clips).model
    blip, temporal = make_optimizer(model, settings.train).param_groups
    assert blip["peak_lr"] == settings.train.learning_rate
    assert temporal["peak_lr"] == settings.train.temporal_learning_rate
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    new = {names[id(parameter)] for parameter in temporal["params"]}
    assert new == {name for name in names.values() if "temporal" in name or "time_embed" in name}
    assert len(new) + len(blip["params"]) == len(names)


def test_learning_rate_falls_to_nearly_zero_in_the_course_of_training(settings, clips, tmp_path):
    _, history = trained(with_train(settings, epochs=5), clips, tmp_path)
    total = steps_of(settings, clips, epochs=5)
    assert total >= 20
    steps = [point["step"] for point in history.steps]
    assert steps == [step for step in range(1, total + 1) if step % 10 == 0 or step == total]
    rates = [point["learning_rate"] for point in history.steps]
    warmup = settings.train.warmup_fraction
    factors = [learning_rate_factor(step - 1, total, warmup) for step in steps]
    assert rates == pytest.approx([settings.train.learning_rate * factor for factor in factors])
    assert rates[-1] < 0.02 * settings.train.learning_rate


def test_each_update_takes_the_learning_rates_of_its_step(settings, clips, tmp_path, monkeypatch):
    taken, step = [], torch.optim.AdamW.step

    def noted(optimizer, *given):
        taken.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    trained(settings, clips, tmp_path, max_steps=4)
    options = settings.train
    peaks = options.learning_rate, options.temporal_learning_rate
    factors = [learning_rate_factor(place, 4, options.warmup_fraction) for place in range(4)]
    assert taken == [pytest.approx([peak * factor for peak in peaks]) for factor in factors]


def test_steps_are_counted_over_all_epochs_and_cut_by_max_steps(settings, clips):
    options, objective = with_train(settings, epochs=3).train, new_objective(settings, clips)
    total = sum(len(list(objective.batches(epoch))) for epoch in range(3))
    assert total == 12 if settings.data.dataset == RETRIEVAL else total >= 12
    assert count_steps(objective, options, None) == total
    assert count_steps(objective, options, 5) == 5
    assert count_steps(objective, options, 100) == total


# Training


def test_max_steps_ends_training_in_the_middle_of_an_epoch(settings, clips, tmp_path):
    first = steps_of(settings, clips)
    _, history = trained(settings, clips, tmp_path, max_steps=first + 2)
    assert history.steps[-1]["step"] == first + 2
    assert [point["step"] for point in history.validations] == [first, first + 2]
    assert 0 < history.waiting_seconds < history.step_seconds < history.seconds


def test_what_is_minimised_is_the_sum_of_the_losses(settings, clips, tmp_path):
    _, history = trained(settings, clips, tmp_path)
    names = {"step", "loss", "learning_rate"}
    for point in history.steps:
        if settings.data.dataset == RETRIEVAL:
            assert point["loss"] == pytest.approx(point["vtc"] + point["vtm"])
            assert point.keys() == names | {"vtc", "vtm"}
        else:
            assert point.keys() == names


def test_every_part_of_the_model_learns(settings, clips, tmp_path):
    """Key biases aside: they cancel in the softmax over what they shift alike."""
    objective = new_objective(settings, clips)
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    train(objective, with_train(settings, weight_decay=0.0).train, 0, 3, tmp_path, "test")
    after = objective.model.state_dict()
    same = {name for name, value in before.items() if torch.equal(after[name], value)}
    assert not {name for name in same if not name.endswith("key.bias")}


def test_test_split_is_never_seen_by_training(settings, clips, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a test clip was read in training")

    monkeypatch.setattr(clips["test"].store, "frames", refuse)
    read = []
    original = ClipSet.pictures

    def pictures(self, *rest, **options):
        read.append({clip.id for clip in self.clips})
        return original(self, *rest, **options)

    monkeypatch.setattr(ClipSet, "pictures", pictures)
    trained(with_train(settings, **BEST), clips, tmp_path)
    seen = set.union(*read)
    assert seen == {clip.id for name in ("train", "validation") for clip in clips[name].clips}
    assert not seen & {clip.id for clip in clips["test"].clips}


def test_no_validation_clips_leave_no_validation_curve(settings, clips, tmp_path):
    none = replace(clips["validation"], clips=())
    _, history = trained(settings, clips | {"validation": none}, tmp_path)
    assert history.validations == []
    assert history.selected_epoch == 2


def test_validation_curve_has_a_point_for_each_epoch_and_training_goes_on(
    settings, clips, tmp_path
):
    model, history = trained(settings, clips, tmp_path)
    first, both = steps_of(settings, clips), steps_of(settings, clips, epochs=2)
    assert [point["step"] for point in history.validations] == [first, both]
    assert model.training


# Not finite


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_loss_or_gradient_that_is_not_finite_names_step_and_batch(
    settings, clips, tmp_path, monkeypatch, where, value
):
    objective = new_objective(settings, clips)
    backward, batches = objective.backward, []

    def broken(batch, *rest):
        batches.append(objective.names(batch))
        found = backward(batch, *rest)
        if len(batches) < 3:
            return found
        if where == "loss":
            return {name: loss * float(value) for name, loss in found.items()}
        objective.model.vision_proj.weight.grad[0, 0] = float(value)
        return found

    monkeypatch.setattr(objective, "backward", broken)
    with pytest.raises(RunError, match="step 3: ") as caught:
        train(objective, settings.train, 0, None, tmp_path, "test")
    message = str(caught.value)
    assert f"(batch of {len(batches[2])}, first: {', '.join(batches[2][:8])}; all in " in message
    assert "Lower train.learning_rate" in message
    told = json.loads((tmp_path / NOT_FINITE_FILE).read_text())
    assert told["batch"] == batches[2]
    assert told["step"] == 3
    expected = ["vision_proj.weight"] if where == "gradient" else []
    assert told["gradients_not_finite"] == expected


def test_training_that_diverges_keeps_the_weights_from_before(
    settings, clips, tmp_path, monkeypatch
):
    objective, before = new_objective(settings, clips), {}
    backward, names = objective.backward, []

    def broken(batch, *rest):
        before.update({k: value.clone() for k, value in objective.model.state_dict().items()})
        names.append(objective.names(batch))
        found = backward(batch, *rest)
        last = list(found)[-1]
        return found | ({last: found[last] * float("nan")} if len(names) == 2 else {})

    monkeypatch.setattr(objective, "backward", broken)
    bars: list[tqdm] = []
    monkeypatch.setattr(engine, "tqdm", lambda **options: bars.append(tqdm(**options)) or bars[0])
    with pytest.raises(RunError, match="step 2: the loss is nan") as caught:
        train(objective, settings.train, 0, None, tmp_path, "test")
    assert len(names) == 2
    assert f"first: {names[1][0]}, {names[1][1]}" in str(caught.value)
    assert bars[0].disable, "the bar is still open: a message would be printed behind it"
    after = objective.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not (tmp_path / "last.pt").exists()


# Broken off and begun again


def interrupt_in_epoch(monkeypatch, settings, clips, wanted):
    """Let Ctrl-C come after the second batch of an epoch, once."""
    kind = type(new_objective(settings, clips))
    original = kind.batches

    def interrupted(self, epoch, first=0):
        for number, batch in enumerate(original(self, epoch, first), first):
            if epoch == wanted and number == 2:
                monkeypatch.setattr(kind, "batches", original)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(kind, "batches", interrupted)


def test_seconds_of_a_run_begun_again_count_all_its_sessions(
    settings, clips, tmp_path, monkeypatch
):
    interrupt_in_epoch(monkeypatch, settings, clips, 1)
    with pytest.raises(KeyboardInterrupt):
        trained(with_train(settings, epochs=2), clips, tmp_path)
    content = read_checkpoint(tmp_path / "last.pt", torch.device("cpu"))
    assert 0 < content["history"]["seconds"] < 1000
    content["history"]["seconds"] = 1000.0
    write_checkpoint(tmp_path / "last.pt", content)
    _, history = trained(with_train(settings, epochs=2), clips, tmp_path)
    assert history.seconds > 1000


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [
        (RETRIEVAL, {}),
        (RETRIEVAL, MOMENTUM),
        (RETRIEVAL, BEST),
        (ANSWERING, {}),
        (ANSWERING, BEST),
    ],
    ids=str,
)
def test_run_begun_again_equals_the_unbroken_one(
    both, dataset, clips, tmp_path, monkeypatch, changes
):
    chosen = with_train(both[dataset], epochs=3, **changes)
    whole, history = trained(chosen, clips, tmp_path / "whole")
    interrupt_in_epoch(monkeypatch, chosen, clips, 1)
    with pytest.raises(KeyboardInterrupt):
        trained(chosen, clips, tmp_path / "broken")
    torch.rand(7)  # what else the process may have drawn
    epochs, kind = [], type(new_objective(chosen, clips))
    original = kind.batches
    monkeypatch.setattr(
        kind,
        "batches",
        lambda self, epoch, first: epochs.append((epoch, first)) or original(self, epoch, first),
    )
    resumed, history_of_resumed = trained(chosen, clips, tmp_path / "broken")
    assert epochs == [(1, 0), (2, 0)]
    assert same_weights(resumed, whole)
    assert history_of_resumed == history


def test_finished_training_begun_again_trains_nothing(settings, clips, tmp_path, monkeypatch):
    whole, history = trained(settings, clips, tmp_path)
    monkeypatch.setattr(type(new_objective(settings, clips)), "backward", None)
    again, history_again = trained(settings, clips, tmp_path)
    assert same_weights(again, whole)
    assert history_again == history


def test_same_seed_gives_the_same_weights_and_another_seed_others(settings, clips, tmp_path):
    one, _ = trained(settings, clips, tmp_path / "one")
    two, _ = trained(settings, clips, tmp_path / "two")
    other, _ = trained(settings, clips, tmp_path / "other", seed=1)
    assert same_weights(one, two)
    assert not same_weights(one, other)


@pytest.mark.parametrize(
    ("dataset", "changes", "names"),
    [
        (RETRIEVAL, {}, ["model"]),
        (RETRIEVAL, MOMENTUM, ["model", "teacher"]),
        (ANSWERING, {}, ["model"]),
    ],
    ids=str,
)
def test_checkpoint_holds_all_parts_and_where_training_stands(
    both, clips, tmp_path, dataset, changes, names
):
    trained(with_train(both[dataset], epochs=1, **changes), clips, tmp_path)
    content = read_checkpoint(tmp_path / "last.pt", torch.device("cpu"))
    assert content.keys() == {*names, "optimizer", "place", "history", "random", "identity"}
    place = {"epoch": 1, "batch": 0, "step": steps_of(both[dataset], clips)}
    assert content["place"] == place


# Which epoch is kept


@pytest.mark.parametrize(
    ("values", "epoch"), [([5.0, 20.0, 10.0], 2), ([5.0, 5.0, 5.0], 1), ([0.0, 0.0, 1.0], 3)]
)
def test_best_validation_keeps_the_first_best_epoch(
    settings, clips, tmp_path, monkeypatch, values, epoch
):
    """By recall or accuracy, and not by order accuracy, which falls here."""
    best_by = {RETRIEVAL: "t2v-itc/R@1", ANSWERING: "accuracy"}[settings.data.dataset]
    weights = []

    def validate(self):
        weights.append({name: value.clone() for name, value in self.model.state_dict().items()})
        place = len(weights) - 1
        return {best_by: values[place], "order_accuracy": 90.0 - place}

    monkeypatch.setattr(type(new_objective(settings, clips)), "validate", validate)
    chosen = with_train(settings, epochs=3, **BEST)
    model, history = trained(chosen, clips, tmp_path)
    assert history.selected_epoch == epoch
    assert [point[best_by] for point in history.validations] == values
    kept = model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in weights[epoch - 1].items())


def test_without_selection_the_last_epoch_is_kept(settings, clips, tmp_path):
    _, history = trained(with_train(settings, epochs=3), clips, tmp_path)
    assert history.selected_epoch == 3
    assert not (tmp_path / "best.pt").exists()


def test_lost_checkpoint_of_the_best_epoch_is_an_error(settings, clips, tmp_path):
    chosen = with_train(settings, **BEST)
    trained(chosen, clips, tmp_path)
    (tmp_path / "best.pt").unlink()
    with pytest.raises(RunError, match="best epoch's checkpoint is gone; start this run again"):
        trained(chosen, clips, tmp_path)
