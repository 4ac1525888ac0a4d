"""The golden values that are shipped: whole, with tolerances that follow, and able to fail."""

import math
import re

import pytest

from benchmarks import measure
from benchmarks.faults import FAULTS
from benchmarks.golden import EXACT, REASONS, ROUNDING, ROUNDINGS, SPREADS, kind_of, read_golden
from litevl.tasks import task_of

CHECK = measure.load_check()
STUDIES = {study.name: study for study in CHECK.study}
GOLDEN = read_golden()


def of_study(name):
    """The study's entries, without its name."""
    return {
        metric.removeprefix(f"{name}/"): entry
        for metric, entry in GOLDEN.metrics.items()
        if metric.startswith(f"{name}/")
    }


def worst(name, metric):
    """The lowest value that still passes."""
    entry = of_study(name)[metric]
    return entry.value - entry.tolerance


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_outcome_and_step_that_a_study_names_has_a_golden_value(study):
    entries = of_study(study.name)
    missing = [name for name in study.outcomes if f"test/{name}" not in entries]
    missing += [step for step in study.steps if f"train/loss@{step}" not in entries]
    assert missing == []


def test_golden_values_belong_to_the_studies_there_are():
    assert {metric.partition("/")[0] for metric in GOLDEN.metrics} == STUDIES.keys()
    assert GOLDEN.header.seconds.keys() == STUDIES.keys()


@pytest.mark.parametrize("metric", GOLDEN.metrics)
def test_tolerance_is_what_its_reason_says(metric):
    entry, kind = GOLDEN.metrics[metric], kind_of(metric)
    assert entry.reason == REASONS[kind]
    assert math.isfinite(entry.value)
    if kind == "exact":
        assert (entry.tolerance, entry.arithmetic_spread, entry.seed_spread) == (EXACT, None, None)
        return
    if kind == "trajectory":
        assert entry.tolerance == max(
            ROUNDINGS * entry.arithmetic_spread, ROUNDING * abs(entry.value)
        )
    else:
        assert entry.tolerance >= SPREADS * max(entry.arithmetic_spread, entry.seed_spread)


def test_every_value_names_the_commit_that_moved_it_last():
    commits = {entry.commit for entry in GOLDEN.metrics.values()} | {GOLDEN.header.commit}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)


def test_study_that_learns_order_cannot_pass_without_it():
    entry = of_study("msvd-qa")["test/accuracy/order"]
    assert entry.value - entry.tolerance > of_study("msvd-qa")["test/majority/order"].value


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_lowest_score_that_passes_is_above_what_a_fixed_answer_gets(study):
    entries = of_study(study.name)
    if task_of(measure.settings_of(study, CHECK).data.dataset) == "retrieval":
        chance = 100 / entries["test/found"].value
        assert worst(study.name, "test/t2v/R@1") > chance
    else:
        assert worst(study.name, "test/accuracy") > entries["test/type-majority"].value


def test_each_fault_has_a_study_to_show_in():
    tasks = {task_of(measure.settings_of(study, CHECK).data.dataset) for study in STUDIES.values()}
    assert all(tasks & set(fault.tasks) for fault in FAULTS)
