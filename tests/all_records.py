"""Made-up runs on all four data sets: two studies written, and two that retell them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from question_records import write_question_study
from records import VARIANTS, write_study

from litevl.record import write_plan

TITLES = {
    "didemo": "Paragraph-to-video retrieval on DiDeMo",
    "msrvtt-qa": "Video question answering on MSRVTT-QA",
}


def retell(folder: Path, spec: str, profile: str = "mini") -> Path:
    """Copy a study's plan and records as those of another data set; returns their folder."""
    other = folder.with_name(spec)
    other.mkdir(exist_ok=True)
    plan = json.loads((folder / f"{profile}.plan.json").read_text())
    for old in plan["ids"]:
        new = spec + old.removeprefix(folder.name)
        for end in (".npz", ".strips.npz"):
            shutil.copy(folder / f"{old}{end}", other / f"{new}{end}")
        record: dict[str, Any] = json.loads((folder / f"{old}.json").read_text())
        record["run"] |= {"id": new, "spec": spec, "title": TITLES[spec]}
        record["data"]["dataset"] = record["spec"]["data"]["dataset"] = spec
        (other / f"{new}.json").write_text(json.dumps(record))
    ids = [spec + old.removeprefix(folder.name) for old in plan["ids"]]
    name = spec.replace("-", "_")
    changes = {"ids": ids, "spec_file": f"reproductions/{name}.toml"}
    write_plan(other, profile, plan | changes | {"command": f"nox -s reproduce-{spec}"})
    return other


def write_all_studies(
    records_dir: Path,
    variants: Iterable[str] = tuple(VARIANTS),
    seeds: Iterable[int] = (0,),
    profile: str = "mini",
) -> None:
    """Studies of all four data sets under one profile."""
    variants, seeds = tuple(variants), tuple(seeds)
    retell(write_study(records_dir, variants, seeds, profile), "didemo", profile)
    retell(write_question_study(records_dir, variants, seeds, profile), "msrvtt-qa", profile)
