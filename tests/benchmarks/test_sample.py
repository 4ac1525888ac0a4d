"""The report that comes with the repository: rendered from its records, to the byte."""

import json
import shutil
from pathlib import Path

import pytest
from all_records import write_all_studies
from pages import Page, content

from benchmarks.sample import SAMPLE, take
from litevl.errors import DataError
from litevl.report.page import render_all

STUDIES = ("didemo", "msrvtt", "msrvtt-qa", "msvd-qa")
MOST_BYTES = 18_000_000


def test_committed_pages_are_those_of_the_committed_records(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE / "records", tmp_path / "records")
    render_all(tmp_path / "records", tmp_path)
    for name in (*(f"{study}-mini" for study in STUDIES), "combined-mini"):
        assert content(tmp_path / name) == content(SAMPLE / name), name


def test_sample_has_all_variants_of_all_four_under_three_seeds_and_is_small() -> None:
    for study in STUDIES:
        plan = json.loads((SAMPLE / "records" / study / "mini.plan.json").read_text())
        assert (len(plan["ids"]), len(plan["variants"])) == (3 * 5, 5)
        found = Page(SAMPLE / f"{study}-mini" / "index.html")
        count = len(plan["ids"])
        assert f"{count} runs planned: {count} complete." in found.text
        assert "Warning." not in found.text
    assert sum(len(stored) for stored in content(SAMPLE).values()) < MOST_BYTES


def test_only_strips_that_a_page_shows_are_taken(tmp_path: Path) -> None:
    write_all_studies(tmp_path / "records", ["full", "no-scaling"], seeds=(0, 1))
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "old.txt").touch()
    pages = take(tmp_path / "records", tmp_path / "sample")
    assert len(pages) == 5
    assert not (tmp_path / "sample" / "old.txt").exists()
    strips = [path.name for path in (tmp_path / "sample").rglob("*.strips.npz")]
    assert len(strips) == 4
    assert all("-full-s0-" in name for name in strips)
    render_all(tmp_path / "records", tmp_path / "whole")
    for page in pages:
        whole = tmp_path / "whole" / page.parent.name
        assert content(page.parent) == content(whole)


def test_unfinished_runs_are_named_and_the_sample_stays(tmp_path: Path) -> None:
    write_all_studies(tmp_path / "records", ["full", "no-scaling"])
    (lacking,) = (tmp_path / "records" / "didemo").glob("*-no-scaling-*.json")
    lacking.unlink()
    (tmp_path / "sample").mkdir()
    with pytest.raises(DataError, match=f"1 planned runs are not complete: {lacking.stem}"):
        take(tmp_path / "records", tmp_path / "sample")
    assert (tmp_path / "sample").is_dir()
