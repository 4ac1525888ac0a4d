"""Every number on a page is one of its records', or follows from them by arithmetic done here."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from question_records import write_question_study
from records import write_study

from litevl import metrics
from litevl.record import read_arrays, read_plan, read_record, read_strips
from litevl.report import render_report
from litevl.report.layout import LAYOUTS
from litevl.report.runs import RESAMPLING_SEED, per_query, sources

no_pictures = pytest.mark.usefixtures("no_pictures")
NUMBER = re.compile(r"(?<![\w.@-])[-+]?\d+(?:\.\d+)?(?![\w@])")
PROSE = ("note", "scope", "files", "footnotes")  # what explains, and quotes no result
ENDS = ("value", "low", "high")


class Shown(HTMLParser):
    """The text of a page and the alternative texts of its pictures, without prose and code."""

    SILENT = ("style", "script", "title", "h2", "nav", "footer", "figcaption", "pre")

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.stack: list[tuple[str, bool]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in ("img", "meta", "link", "input", "wbr"):
            self.texts += [named.get("alt") or ""]
            return
        classes = (named.get("class") or "").split()
        self.stack.append((tag, tag in self.SILENT or any(name in PROSE for name in classes)))

    def handle_endtag(self, _tag: str) -> None:
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if not any(silent for _, silent in self.stack):
            self.texts.append(data)

    @property
    def numbers(self) -> list[str]:
        return [number for text in self.texts for number in NUMBER.findall(text)]


def leaves(node: Any) -> Iterator[Any]:
    """What a JSON document holds, without its structure; sizes count as what it holds."""
    if isinstance(node, dict):
        yield from node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        yield len(node)
        for entry in node:
            yield from leaves(entry)
    else:
        yield node


def written(value: float) -> set[str]:
    """The ways in which a page writes a number: plain, rounded, with a sign."""
    plain = {f"{value:.{digits}f}" for digits in range(4)} | {str(value)}
    signed = {f"{value:+.{digits}f}" for digits in range(3)}
    zero = {"0.0"} if round(value, 1) == 0 else set()
    return plain | signed | zero


def known_numbers(folder: Path) -> set[str]:
    """Everything that the records of a study, and arithmetic over them, give to write."""
    found: set[str] = set()
    plan = read_plan(folder / "mini.plan.json")
    paths = [folder / f"{one}.json" for one in plan.ids]
    documents = [json.loads(path.read_text()) for path in paths]
    documents.append(json.loads((folder / "mini.plan.json").read_text()))
    for leaf in (leaf for document in documents for leaf in leaves(document)):
        if isinstance(leaf, str):
            found |= set(NUMBER.findall(leaf.replace("T", " ")))  # of days and hours
        elif isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            for unit in (1, 60, 3600, 1e3, 1e6, 1e9, 1e12):
                found |= written(leaf / unit)
    records = {path: read_record(path) for path in paths}
    arrays = {path: read_arrays(path) for path in paths}
    runs: dict[str, list[Path]] = {}
    for path, record in records.items():
        runs.setdefault(record.run.variant, []).append(path)
        cost = record.cost
        assert cost is not None
        found.add(f"{(cost.flops_per_clip + cost.flops_per_pair) / 1e9:.2f}")
    found |= {str(count) for count in range(len(paths) + 1)}
    found |= results(runs, arrays)
    for path in paths:
        strips = read_strips(path)
        assert strips is not None
        for name in ("frame_weights", "scores"):
            found |= {f"{value:.2f}" for value in strips.get(name, np.zeros(0)).ravel()}
        found |= {f"{value:.2f}" for value in arrays[path].get("top_scores", np.zeros(0)).ravel()}
        found |= {str(size) for array in strips.values() for size in array.shape}
        ranks = arrays[path].get("t2v_ranks", np.ones((1, 2), int))
        found |= {str(rank) for rank in ranks[:, 1]}
        words = [word for name in ("captions", "questions", "gallery_ids", "clip_ids")
                 for word in arrays[path].get(name, ())]  # fmt: skip
        found |= {number for word in words for number in NUMBER.findall(str(word))}
    scales = [record.temporal_scale for record in records.values() if record.temporal_scale]
    for value in np.mean(scales, axis=0).ravel() if scales else ():
        found |= written(float(value))
    return found


def results(runs: Any, arrays: Any) -> set[str]:
    """Means over seeds, their differences, and bootstrap intervals of both."""
    found: set[str] = set()
    task = "question-answering" if "answer_list" in next(iter(arrays.values())) else "retrieval"
    layout = LAYOUTS[task]
    names = [column.metric for column in (*layout.columns, *layout.compared)]
    names += [metric for baseline in layout.baselines for metric in baseline.metrics.values()]
    for metric in dict.fromkeys(names):
        values: dict[str, Any] = {}
        for variant, paths in runs.items():
            rows = [per_query(metric, arrays[path]) for path in paths]
            if all(row is not None and len(row) for row in rows):
                values[variant] = np.stack(rows)
        for variant, rows in values.items():
            told = mean_over_seeds(metric, rows, arrays[runs[variant][0]])
            found |= {text for key in ENDS for text in written(told[key])}
            found |= {str(rows.shape[1]), *(t for row in rows for t in written(float(row.mean())))}
        for one, other in product(values, values):
            gap = difference(metric, values[one], values[other], arrays[runs[one][0]])
            found |= {text for key in ENDS for text in written(gap[key])}
            for row in values[one] - values[other]:
                found |= written(float(row.mean()))
    return found


def mean_over_seeds(metric: str, rows: Any, arrays: Any) -> Any:
    """A metric with its interval; rows: (S, Q)."""
    how = "median" if metric.endswith("/MdR") else "mean"
    percent = metrics.PERCENT if not metric.endswith(("/MdR", "sensitivity")) else None
    rng = np.random.default_rng(RESAMPLING_SEED)
    found = metrics.interval(rows, sources(metric, arrays), rng, how, bounds=percent)
    middle = np.median if how == "median" else np.mean
    assert found["value"] == pytest.approx(np.mean([middle(row) for row in rows]))
    return found


def difference(metric: str, ours: Any, theirs: Any, arrays: Any) -> Any:
    """Ours minus theirs, with its interval; both (S, Q)."""
    rng = np.random.default_rng(RESAMPLING_SEED)
    found = metrics.paired_difference(ours, theirs, sources(metric, arrays), rng)
    assert found["value"] == pytest.approx((ours - theirs).mean())
    return found


@pytest.mark.parametrize("write", [write_study, write_question_study])
@no_pictures
def test_every_number_on_the_page_is_found_in_a_record(tmp_path: Path, write: Any) -> None:
    folder = write(tmp_path / "records", ["full", "no-temporal-attention"], seeds=(0, 1))
    page = render_report(folder.parent, tmp_path)
    known = known_numbers(folder)
    told = Shown(page).numbers
    assert len(told) > 200
    assert [number for number in told if number not in known] == []


@no_pictures
def test_number_that_no_record_has_is_noticed(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-temporal-attention"], seeds=(0, 1))
    page = render_report(folder.parent, tmp_path)
    value = re.search(r'class="number">\s*([\d.]+)\s*<small>', page.read_text())
    assert value is not None
    page.write_text(page.read_text().replace(value[1], "71.93", 1))
    known = known_numbers(folder)
    assert "71.93" in [number for number in Shown(page).numbers if number not in known]
