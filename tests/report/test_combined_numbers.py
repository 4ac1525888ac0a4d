"""The numbers on the page of all studies are its records', each in its place and with its sign."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from all_records import retell
from matplotlib.figure import Figure
from question_records import question_run_id, write_question_study
from records import change_record, write_study
from test_numbers import ENDS, Shown, difference, mean_over_seeds

from litevl.record import PlanFile, read_arrays, read_plan, read_record
from litevl.report import render_report
from litevl.report.runs import per_query

VARIANTS = ("full", "no-temporal-attention")
RECALLS = ("t2v/R@1", "t2v/R@5", "t2v/R@10", "t2v/MdR")
METRICS = {
    "msrvtt": RECALLS,
    "didemo": RECALLS,
    "msvd-qa": ("accuracy",),
    "msrvtt-qa": ("accuracy",),
}
BASELINES = ("majority", "type-majority", "answerable")


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four studies that differ in size, one in its seeds, with claims of either sign."""
    folder = tmp_path_factory.mktemp("all") / "records"
    runs = (VARIANTS, (0, 1), "paper")
    retell(write_study(folder, *runs, num_queries=48), "didemo", "paper")
    write_study(folder, *runs)
    retell(write_question_study(folder, *runs, num_questions=80), "msrvtt-qa", "paper")
    change_record(
        write_question_study(folder, *runs),
        question_run_id("full", 1, "paper"),
        lambda r: r.update(status="failed", error="loss is NaN", metrics={}),
    )
    for path in folder.glob("*/paper.plan.json"):
        plan = json.loads(path.read_text())
        (claim,) = plan["claims"]
        other = {"name": "other", "better": claim["worse"], "worse": claim["better"]}
        path.write_text(json.dumps(plan | {"claims": [claim, claim | other]}))
    return folder


@pytest.fixture(scope="module")
def page(records_dir: Path) -> Path:
    with mock.patch.object(Figure, "savefig"):  # nobody looks at the pictures
        return render_report(records_dir, records_dir.parent)


@dataclass(frozen=True)
class Recorded:
    """What the files of one study say: its runs' outcomes, and those that are complete."""

    name: str
    plan: PlanFile
    outcomes: list[str]
    runs: dict[str, dict[int, Path]]
    """Variant -> seed -> record."""


def recorded(folder: Path) -> Recorded:
    plan = read_plan(folder / "paper.plan.json")
    paths = [folder / f"{one}.json" for one in plan.ids]
    records = [read_record(path) for path in paths]
    runs: dict[str, dict[int, Path]] = {}
    for path, record in zip(paths, records, strict=True):
        if record.status == "complete":
            runs.setdefault(record.run.variant, {})[record.run.seed] = path
    return Recorded(folder.name, plan, [record.status for record in records], runs)


def average(metric: str, paths: Iterable[Path]) -> Any:
    """A metric over seeds; of one run as its record has it."""
    first, *others = paths
    if not others:
        return read_record(first).metrics.test[metric].model_dump()
    return mean_over_seeds(metric, rows(metric, [first, *others]), read_arrays(first))


def rows(metric: str, paths: Iterable[Path]) -> Any:
    return np.stack([per_query(metric, read_arrays(path)) for path in paths])


def counts(kinds: Iterable[Any]) -> list[str]:
    return [str(count) for count in Counter(kinds).values()]


def cell(found: Any, sign: str = "") -> list[str]:
    return [f"{found[key]:{sign if key == 'value' else ''}.1f}" for key in ENDS]


@dataclass(frozen=True)
class Claimed:
    """One claim on one data set, as its records decide it."""

    difference: Any
    by_seed: dict[int, float]
    lacking: set[int]


def claimed(study: Recorded, place: int) -> Claimed:
    claim = study.plan.claims[place]
    better, worse = study.runs[claim.better], study.runs[claim.worse]
    seeds = sorted(better.keys() & worse.keys())
    ours, theirs = (rows(claim.metric, [side[seed] for seed in seeds]) for side in (better, worse))
    gap = difference(claim.metric, ours, theirs, read_arrays(better[seeds[0]]))
    by_seed = dict(zip(seeds, (ours - theirs).mean(axis=1), strict=True))
    return Claimed(gap, by_seed, better.keys() ^ worse.keys())


def in_lead(studies: list[Recorded], claims: list[Claimed]) -> list[str]:
    outcomes = [outcome for study in studies for outcome in study.outcomes]
    gaps = [
        average(target.metric, study.runs[target.variant].values())["value"] - target.value
        for study in studies
        for target in study.plan.targets
    ]
    found = [claim.difference for claim in claims]
    verdicts = counts((gap["low"] > 0, gap["high"] < 0) for gap in found)
    return [str(len(outcomes)), *counts(outcomes), *verdicts, *counts(np.sign(gaps))]


def in_results(studies: list[Recorded]) -> list[str]:
    """The numbers of queries, a row for each variant, and the baselines."""
    told = []
    for study in studies:
        sizes = {rows(METRICS[study.name][0], of.values()).shape[1] for of in study.runs.values()}
        told += [str(size) for size in sizes]
    for variant in VARIANTS:
        seeds = [list(map(str, study.runs[variant])) for study in studies]
        told += chain(*seeds) if any(each != seeds[0] for each in seeds) else seeds[0]
        for study in studies:
            for metric in METRICS[study.name]:
                told += cell(average(metric, study.runs[variant].values()))
    for metric in BASELINES:
        for study in studies:
            if study.name.endswith("-qa"):
                told += cell(average(metric, [study.runs["full"][0]]))
    return told


def in_claims(claims: list[Claimed]) -> list[str]:
    told = []
    for claim in claims:
        told += [str(seed) for seed in claim.lacking]
        told += [*cell(claim.difference, "+"), *map(str, claim.by_seed)]
        told += [*(f"{value:.1f}" for value in claim.by_seed.values()), str(claim.difference["n"])]
    return told


def in_sources(studies: list[Recorded]) -> list[str]:
    told = []
    for study in studies:
        seeds = sorted(set().union(*study.runs.values()))
        told += [*counts(study.outcomes), *map(str, seeds)]
    return told


def numbers_in_order(records_dir: Path) -> list[str]:
    """Every number that the page should show, as a reader meets them."""
    studies = [recorded(records_dir / name) for name in METRICS]
    claims = [claimed(study, place) for place in (0, 1) for study in studies]
    differences = [cell(claim.difference, "+") for claim in claims]
    return [
        *in_lead(studies, claims),
        *chain(*differences),
        *in_results(studies),
        *(value for value, *_ in differences),  # of the picture
        *in_claims(claims),
        *in_sources(studies),
    ]


def test_numbers_of_the_combined_page_are_those_of_the_records(
    page: Path, records_dir: Path
) -> None:
    right = numbers_in_order(records_dir)
    assert Shown(page).numbers == right
    assert len(right) > 150
    assert {number[0] for number in right} >= {"+", "-"}


def test_number_of_no_record_or_of_another_place_or_without_its_sign_is_noticed(
    page: Path, records_dir: Path, tmp_path: Path
) -> None:
    right, text = numbers_in_order(records_dir), page.read_text()
    recalls = re.findall(r'class="number">\s*([\d.]+)\s*<small>', text)
    ours, theirs = recalls[0], recalls[len(RECALLS)]  # R@1 on MSRVTT and on DiDeMo
    loss = next(number for number in right if number.startswith("-"))
    changed = tmp_path / "index.html"
    for number, wrong in ((ours, "71.93"), (ours, theirs), (loss, loss.removeprefix("-"))):
        changed.write_text(text.replace(number, wrong, 1))
        assert wrong in Shown(changed).numbers
        assert Shown(changed).numbers != right
