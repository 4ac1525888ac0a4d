"""Settings of a spec take effect in its runs: what these compute, draw and select."""

import os

import pytest
import torch
from small import small_settings, the_record, write_spec

from litevl import measure
from litevl import run as engine
from litevl.cli import main
from litevl.model.momentum import MomentumTeacher


@pytest.fixture
def changed(small, tmp_path, monkeypatch):
    """Return a function that trains `full` with changes; its record, and what it was trained for.

    train and others: changes in the mini profile's tables of these names.
    """
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # a second process costs more than it saves
    begun, begin = [], engine.begin

    def noting(*arguments):
        begun.append(begin(*arguments))
        return begun[-1]

    monkeypatch.setattr(engine, "begin", noting)

    def of(train, **others):
        spec = small_settings(small / "world", small / "model.safetensors")
        for name, values in ({"train": train} | others).items():
            spec["profile"]["mini"][name] |= values
        if "select" in train:
            spec["profile"]["paper"]["train"]["select"] = spec["train"].pop("select")
        spec["variant"] = [{"name": "full", "title": "LiteVL", "set": {}}]
        spec["claim"] = []
        write_spec(tmp_path / "spec.toml", spec)
        command = ["run", str(tmp_path / "spec.toml"), "--output", str(tmp_path), "--no-report"]
        assert main(command) == 0
        ((_, objective, *_),) = begun
        return the_record(tmp_path), objective

    return of


def test_momentum_encoder_follows_each_step_and_fills_its_queue(changed, monkeypatch):
    followed, follow = [], MomentumTeacher.follow

    def noting(teacher, model):
        followed.append(1)
        follow(teacher, model)

    monkeypatch.setattr(MomentumTeacher, "follow", noting)
    record, objective = changed({"momentum_encoder": True, "queue_size": 8})
    assert len(followed) == record.curves.train[-1].step == 8
    assert sorted(objective.teacher.queue_ids.tolist()) == sorted(
        int(n) for batch in list(objective.batches(1))[-2:] for n in batch.ids
    )


def test_best_epoch_is_selected_and_a_layer_scales_all_frames_alike(changed):
    record, _ = changed({"select": "best-validation"}, model={"scaling": "layer"})
    curve = [point.recall_at_1 for point in record.curves.validation]
    assert record.selection.select == "best-validation"
    assert record.selection.epoch == 1 + curve.index(max(curve))
    (scale,) = {*record.temporal_scale[0]}
    assert scale != 1.0


def test_training_and_scores_are_computed_in_the_precision_asked_for(changed, monkeypatch):
    seen, linear = set(), torch.nn.Linear.forward

    def noting(module, values):
        found = linear(module, values)
        seen.add((module.training, found.dtype))
        return found

    cost = measure.cost

    def counting(*arguments):  # operations, in any precision
        with monkeypatch.context() as plain:
            plain.setattr(torch.nn.Linear, "forward", linear)
            return cost(*arguments)

    monkeypatch.setattr(torch.nn.Linear, "forward", noting)
    monkeypatch.setattr(measure, "cost", counting)
    precision = {"precision": "bf16"}
    changed(precision, evaluate=precision, model={"pooling_space": "hidden"})
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}


def test_ungrouped_batches_part_twins(changed):
    _, objective = changed({"group_by_source": False}, model={"pooling": "text-temporal"})
    batches = [set(batch.ids.tolist()) for batch in objective.batches(0)]
    assert any(index ^ 1 not in batch for batch in batches for index in batch)
    assert objective.model.config.pooling == "text-temporal"
