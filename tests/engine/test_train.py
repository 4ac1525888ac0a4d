"""The training loop: what it draws, when it stops, and that a broken-off run continues the same."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import clip_sets, new_model, small_settings, write_spec, write_weights
from tqdm import tqdm

from litevl.data.dataset import FrameStore
from litevl.engine import train as engine
from litevl.engine.checkpoint import read_checkpoint, write_checkpoint
from litevl.engine.clips import ClipSet
from litevl.engine.train import (
    Batch,
    History,
    alpha_at,
    batches,
    count_steps,
    learning_rate_factor,
    make_optimizer,
    stop_if_not_finite,
    train,
)
from litevl.errors import RunError
from litevl.model.tokenizer import Tokens
from litevl.spec import load_spec, resolve

MOMENTUM = {"momentum_encoder": True, "momentum": 0.9, "queue_size": 8, "distillation_alpha": 0.4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny weights, and a spec that names them. Tests do not change it."""
    folder = tmp_path_factory.mktemp("training")
    write_weights(folder)
    write_spec(folder / "spec.toml", small_settings(folder / "none", folder / "model.safetensors"))
    return folder


@pytest.fixture(scope="module")
def settings(folder):
    """The spec's `full` variant under the mini profile."""
    return resolve(load_spec(folder / "spec.toml"), "mini", "full")


@pytest.fixture(scope="module")
def clips(folder) -> dict[str, ClipSet]:
    """The small world's clips by split. Tests do not change them."""
    return clip_sets(folder, folder / "model.safetensors")


def with_train(settings, **changes):
    """The settings with other values in [train]."""
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def trained(settings, clips, folder, seed=0, max_steps=None):
    """A model after training, and its history."""
    model = new_model(settings)
    history = train(
        model, settings, clips["train"], clips["validation"], seed, max_steps, folder, "test"
    )
    return model, history


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


@pytest.mark.parametrize(("step", "alpha"), [(0, 0.0), (1, 0.1), (2, 0.2), (4, 0.4), (9, 0.4)])
def test_weight_of_soft_targets_grows_over_the_first_epoch(settings, clips, step, alpha):
    options = with_train(settings, distillation_alpha=0.4).train
    assert len(clips["train"]) // options.batch_size == 4
    assert alpha_at(step, options, clips["train"]) == pytest.approx(alpha)


def test_new_parameters_have_their_own_learning_rate(settings):
    model = new_model(settings)
    blip, temporal = make_optimizer(model, settings.train).param_groups
    assert blip["peak_lr"] == settings.train.learning_rate
    assert temporal["peak_lr"] == settings.train.temporal_learning_rate
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    new = {names[id(parameter)] for parameter in temporal["params"]}
    assert new == {name for name in names.values() if "temporal" in name or "time_embed" in name}
    assert len(new) + len(blip["params"]) == len(names)


def test_learning_rate_falls_to_nearly_zero_in_the_course_of_training(settings, clips, tmp_path):
    _, history = trained(with_train(settings, epochs=5), clips, tmp_path)
    assert [point["step"] for point in history.steps] == [10, 20]
    rates = [point["learning_rate"] for point in history.steps]
    factors = [learning_rate_factor(step, 20, settings.train.warmup_fraction) for step in (9, 19)]
    assert rates == pytest.approx([settings.train.learning_rate * factor for factor in factors])


# Batches


def test_batches_hold_twins_together_each_with_one_of_its_captions(settings, clips):
    seen = []
    for batch in batches(clips["train"], settings, 0, 0):
        ids = batch.ids.tolist()
        assert {index ^ 1 for index in ids} == set(ids)
        assert batch.frames.shape == (4, 4, 3, 32, 32)
        for row, index in enumerate(ids):
            own = clips["train"].tokens(clips["train"].clips[index].captions).input_ids
            words = batch.tokens.input_ids[row]
            assert any(words[words > 0].tolist() == c[c > 0].tolist() for c in own)
        seen += ids
    assert sorted(seen) == list(range(16))


def test_epochs_and_seeds_draw_other_batches_and_the_same_ones_again(settings, clips):
    def drawn(seed, epoch):
        found = list(batches(clips["train"], settings, seed, epoch))
        return [batch.ids.tolist() for batch in found], [batch.frames for batch in found]

    ids, frames = drawn(0, 0)
    again_ids, again_frames = drawn(0, 0)
    assert ids == again_ids
    assert all(torch.equal(a, b) for a, b in zip(frames, again_frames, strict=True))
    assert ids != drawn(0, 1)[0]
    assert ids != drawn(1, 0)[0]


def test_steps_are_counted_over_all_epochs_and_cut_by_max_steps(settings, clips):
    options = with_train(settings, epochs=3).train
    assert count_steps(clips["train"], options, 0, None) == 12
    assert count_steps(clips["train"], options, 0, 5) == 5
    assert count_steps(clips["train"], options, 0, 100) == 12


# Training


def test_training_lowers_the_loss(settings, clips, tmp_path):
    """One batch of four scenes, again and again, is learned by heart."""
    clip_set, kept = clips["train"], [0, 2, 4, 6]
    some = tuple(replace(clip_set.clips[k], captions=clip_set.clips[k].captions[:1]) for k in kept)
    frames = [clip_set.store.frames(k, np.arange(12)) for k in kept]
    (tmp_path / "frames").write_bytes(np.stack(frames).tobytes())
    store = FrameStore(tmp_path / "frames", [(12 * row, 12) for row in range(4)], 32)
    few = clips | {"train": replace(clip_set, clips=some, store=store)}
    options = {"epochs": 100, "learning_rate": 3e-3, "temporal_learning_rate": 3e-3}
    _, history = trained(with_train(settings, **options), few, tmp_path)
    losses = [point["loss"] for point in history.steps]
    assert losses[-1] < 0.5 * losses[0], losses
    for point in history.steps:
        assert point["loss"] == pytest.approx(point["vtc"] + point["vtm"])


def test_max_steps_ends_training_in_the_middle_of_an_epoch(settings, clips, tmp_path):
    _, history = trained(settings, clips, tmp_path, max_steps=6)
    assert history.steps[-1]["step"] == 6
    assert [point["step"] for point in history.validations] == [4, 6]


def test_temperature_stays_within_its_bounds(settings, clips, tmp_path):
    wild = with_train(settings, learning_rate=1.0, temporal_learning_rate=1e-6, epochs=1)
    model, _ = trained(wild, clips, tmp_path, max_steps=2)
    assert engine.MIN_TEMPERATURE <= model.temp.item() <= engine.MAX_TEMPERATURE


def test_test_split_is_never_seen_by_training(settings, clips, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a test clip was read in training")

    monkeypatch.setattr(clips["test"].store, "frames", refuse)
    read = []
    original = ClipSet.frames

    def frames(self, *rest):
        read.append({clip.id for clip in self.clips})
        return original(self, *rest)

    monkeypatch.setattr(ClipSet, "frames", frames)
    trained(with_train(settings, select="best-validation"), clips, tmp_path)
    seen = set.union(*read)
    assert seen == {clip.id for name in ("train", "validation") for clip in clips[name].clips}
    assert not seen & {clip.id for clip in clips["test"].clips}


def test_no_validation_clips_leave_no_validation_curve(settings, clips, tmp_path):
    none = replace(clips["validation"], clips=())
    _, history = trained(settings, clips | {"validation": none}, tmp_path)
    assert history.validations == []
    assert history.selected_epoch == 2


# Not finite


@pytest.mark.parametrize(("loss", "norm"), [("nan", 1.0), ("inf", 1.0), (1.0, "nan"), (1.0, "inf")])
def test_loss_or_gradient_that_is_not_finite_names_step_and_clips(clips, loss, norm):
    ids = torch.tensor([3, 2])
    batch = Batch(torch.zeros(2), Tokens(torch.zeros(2), torch.zeros(2)), ids)
    first, second = (clips["train"].clips[index].id for index in (3, 2))
    values = torch.tensor(float(loss)), torch.tensor(float(norm))
    with pytest.raises(RunError, match=f"step 8: .*first: {first}, {second}\\)\n  Lower train"):
        stop_if_not_finite(*values, 7, batch, clips["train"])
    stop_if_not_finite(torch.tensor(1.0), torch.tensor(1.0), 7, batch, clips["train"])


def test_training_that_diverges_keeps_the_weights_from_before(
    settings, clips, tmp_path, monkeypatch
):
    model, before, losses = new_model(settings), {}, engine.losses

    def broken(current, *rest):
        vtc, vtm = losses(current, *rest)
        before.update({name: value.clone() for name, value in current.state_dict().items()})
        return vtc, vtm * (float("nan") if len(calls) == 2 else 1.0)

    calls: list[int] = []
    monkeypatch.setattr(engine, "losses", lambda *rest: calls.append(0) or broken(*rest))
    bars: list[tqdm] = []
    monkeypatch.setattr(engine, "tqdm", lambda **options: bars.append(tqdm(**options)) or bars[0])
    with pytest.raises(RunError, match="step 2: the loss is nan"):
        train(model, settings, clips["train"], clips["validation"], 0, None, tmp_path, "test")
    assert len(calls) == 2
    assert bars[0].disable, "the bar is still open: a message would be printed behind it"
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not (tmp_path / "last.pt").exists()


# Broken off and begun again


def interrupt_in_epoch(monkeypatch, wanted):
    """Let Ctrl-C come after the second batch of an epoch, once."""
    original = engine.batches

    def interrupted(clips, settings, seed, epoch):
        for number, batch in enumerate(original(clips, settings, seed, epoch)):
            if epoch == wanted and number == 2:
                monkeypatch.setattr(engine, "batches", original)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(engine, "batches", interrupted)


def test_seconds_of_a_run_begun_again_count_all_its_sessions(
    settings, clips, tmp_path, monkeypatch
):
    interrupt_in_epoch(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        trained(with_train(settings, epochs=2), clips, tmp_path)
    content = read_checkpoint(tmp_path / "last.pt", torch.device("cpu"))
    assert 0 < content["history"]["seconds"] < 1000
    content["history"]["seconds"] = 1000.0
    write_checkpoint(tmp_path / "last.pt", content)
    _, history = trained(with_train(settings, epochs=2), clips, tmp_path)
    assert history.seconds > 1000


@pytest.mark.parametrize("changes", [{}, MOMENTUM, {"select": "best-validation"}], ids=str)
def test_run_begun_again_equals_the_unbroken_one(settings, clips, tmp_path, monkeypatch, changes):
    chosen = with_train(settings, epochs=3, **changes)
    whole, history = trained(chosen, clips, tmp_path / "whole")
    interrupt_in_epoch(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        trained(chosen, clips, tmp_path / "broken")
    torch.rand(7)  # what else the process may have drawn
    epochs = []
    original = engine.batches
    monkeypatch.setattr(engine, "batches", lambda *rest: epochs.append(rest[3]) or original(*rest))
    resumed, history_of_resumed = trained(chosen, clips, tmp_path / "broken")
    assert epochs == [1, 2]
    assert same_weights(resumed, whole)
    assert history_of_resumed == history


def test_finished_training_begun_again_trains_nothing(settings, clips, tmp_path, monkeypatch):
    whole, history = trained(settings, clips, tmp_path)
    monkeypatch.setattr(engine, "losses", None)
    again, history_again = trained(settings, clips, tmp_path)
    assert same_weights(again, whole)
    assert history_again == history


def test_same_seed_gives_the_same_weights_and_another_seed_others(settings, clips, tmp_path):
    one, _ = trained(settings, clips, tmp_path / "one")
    two, _ = trained(settings, clips, tmp_path / "two")
    other, _ = trained(settings, clips, tmp_path / "other", seed=1)
    assert same_weights(one, two)
    assert not same_weights(one, other)


# Which epoch is kept


@pytest.mark.parametrize(
    ("recalls", "epoch"), [([5.0, 20.0, 10.0], 2), ([5.0, 5.0, 5.0], 1), ([0.0, 0.0, 1.0], 3)]
)
def test_best_validation_keeps_the_first_best_epoch(
    settings, clips, tmp_path, monkeypatch, recalls, epoch
):
    weights = []

    def validate(model, settings, clips, seed, step, history):  # noqa: ARG001
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        history.validations.append({"step": step, "t2v-itc/R@1": recalls[len(weights) - 1]})

    monkeypatch.setattr(engine, "validate", validate)
    chosen = with_train(settings, epochs=3, select="best-validation")
    model, history = trained(chosen, clips, tmp_path)
    assert history.selected_epoch == epoch
    kept = model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in weights[epoch - 1].items())


def test_without_selection_the_last_epoch_is_kept(settings, clips, tmp_path):
    _, history = trained(with_train(settings, epochs=3), clips, tmp_path)
    assert history.selected_epoch == 3
    assert not (tmp_path / "best.pt").exists()


def test_lost_checkpoint_of_the_best_epoch_is_an_error(settings, clips, tmp_path):
    chosen = with_train(settings, select="best-validation")
    trained(chosen, clips, tmp_path)
    (tmp_path / "best.pt").unlink()
    with pytest.raises(RunError, match="best epoch's checkpoint is gone; start this run again"):
        trained(chosen, clips, tmp_path)


def test_validation_curve_has_recall_and_order_accuracy_per_epoch(settings, clips, tmp_path):
    model, history = trained(settings, clips, tmp_path)
    assert [point["step"] for point in history.validations] == [4, 8]
    for point in history.validations:
        assert 0 <= point["t2v-itc/R@1"] <= 100
        assert 0 <= point["order_accuracy"] <= 100
    assert model.training
    empty = History()
    without = replace(clips["validation"], twin_of={})
    engine.validate(model, settings, without, 0, 8, empty)
    assert "order_accuracy" not in empty.validations[0]
