"""A report as a folder that needs nothing else: page, Markdown, tables, figures."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from litevl.errors import DataError
from litevl.record import read_strips, write_bytes
from litevl.report import accounts, tables
from litevl.report.figures import (
    Picture,
    ablation_pictures,
    curve_pictures,
    scale_pictures,
    strip_pictures,
)
from litevl.report.runs import Study, find_studies, load_study, without_folder
from litevl.report.tables import Cell, Table
from litevl.report.verdicts import ClaimResult, TargetResult, judge_claims, judge_targets

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~])")


def render_report(
    records_dir: Path, output_dir: Path, spec: str | None = None, profile: str | None = None
) -> Path:
    """Render `<spec>-<profile>/` for every study found, or for the one named.

    records_dir: holds `<spec>/<run id>.json` and `<spec>/<profile>.plan.json`.   Returns the page's
    path if there is one study, else output_dir. The same records give the same bytes.
    Raises DataError if there is nothing to render, RunError if the folder cannot be written.
    """
    studies = [
        found
        for found in find_studies(records_dir)
        if spec in (None, found[0]) and profile in (None, found[1])
    ]
    if not studies:
        raise DataError(
            f"{records_dir}: no records{f' of {spec}' if spec else ''}.\n"
            "  Run a reproduction first: litevl run reproductions/msrvtt.toml"
        )
    pages = [_render(load_study(records_dir, *found), output_dir) for found in studies]
    return pages[0] if len(pages) == 1 else output_dir


def _render(study: Study, output_dir: Path) -> Path:
    """Write one study's folder, and clear away what an earlier rendering left in it."""
    folder = output_dir / f"{study.spec}-{study.profile}"
    claims, targets = judge_claims(study), judge_targets(study)
    found, warnings = _tables(study, claims, targets), accounts.code_warnings(study)
    pictures = _pictures(study, warnings)
    context = {
        "study": study,
        "tables": {table.stem: table for table in found if table.rows},
        "pictures": pictures,
        "warnings": warnings,
        "lead": _lead(study, claims, targets),
        "scope": _scope(study),
    }
    pages = _environment()
    written = {
        folder / "index.html": pages.get_template("index.html.j2").render(context).encode(),
        folder / "report.md": pages.get_template("report.md.j2").render(context).encode(),
    }
    for table in found:
        if table.rows:
            csv = table.frame.to_csv(index=False, lineterminator="\n")
            written[folder / "tables" / f"{table.stem}.csv"] = csv.encode()
            written[folder / "tables" / f"{table.stem}.tex"] = latex(table, study).encode()
    for picture in pictures:
        written[folder / "figures" / f"{picture.stem}.png"] = picture.png
    for path, content in written.items():
        write_bytes(path, content)
    for pattern in ("tables/*.csv", "tables/*.tex", "figures/*.png"):
        for path in folder.glob(pattern):
            if path not in written:
                path.unlink()
    return folder / "index.html"


def _tables(
    study: Study, claims: Iterable[ClaimResult], targets: Iterable[TargetResult]
) -> list[Table]:
    return [
        tables.claims_table(study, list(claims)),
        tables.targets_table(study, list(targets)),
        tables.main_table(study),
        tables.ablation_table(study),
        tables.withheld_table(study),
        accounts.cost_table(study),
        accounts.data_table(study),
        accounts.weights_table(study),
        accounts.settings_table(study),
        accounts.runs_table(study),
        accounts.machines_table(study),
    ]


def _pictures(study: Study, warnings: list[str]) -> list[Picture]:
    """All figures; film strips that cannot be read become a warning on the page."""
    pictures = ablation_pictures(study) + curve_pictures(study) + scale_pictures(study)
    for run in study.published(study.reference):
        try:
            strips = read_strips(run.path)
        except DataError as error:
            warnings.append(without_folder(error, run.path))
            continue
        if strips is not None:
            return pictures + strip_pictures(run, strips)
    return pictures


def _scope(study: Study) -> str:
    """What the profile means for a reader, the first and the last thing on the page."""
    if study.profile == "mini":
        return (
            "Mini profile: a small model on drawn clips, trained in minutes. It puts the paper's "
            "claims to the test in a small world. Its numbers say nothing about the real data set "
            "and are never set beside the paper's."
        )
    return "Paper profile: the real data set and BLIP's weights, at the scale of the paper."


def _lead(
    study: Study, claims: tuple[ClaimResult, ...], targets: tuple[TargetResult, ...]
) -> list[str]:
    """The answer in a few sentences: how much ran, and the verdicts by kind."""
    counts = _counts(run.outcome for run in study.runs)
    num_withheld = sum(bool(run.reasons) for run in study.runs)
    lines = [f"{len(study.runs)} runs planned: {counts}."]
    if num_withheld:
        lines.append(f"{num_withheld} of them may not be compared and stand in a table apart.")
    if claims:
        lines.append(f"Claims: {_counts(result.verdict for result in claims)}.")
    if targets:
        lines.append(f"Published numbers: {_counts(result.verdict for result in targets)}.")
    if study.shown:
        lines.append(f"Code of the numbers below: {tables.commits_text(study.shown)}.")
    if study.num_outdated:
        lines.append(
            f"{study.num_outdated} records of other settings or earlier versions are left out."
        )
    return lines


def _counts(kinds: Iterable[str]) -> str:
    listed = list(kinds)
    return ", ".join(f"{listed.count(kind)} {kind}" for kind in dict.fromkeys(listed))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("litevl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., Any]] = {"md": markdown, "breakable": breakable}
    environment.filters.update(filters)
    return environment


def markdown(text: str) -> Markup:
    """Text as Markdown shows it, whatever it holds: no markup, no HTML, one line."""
    plain = MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return Markup(plain.replace("&", "&amp;").replace("<", "&lt;"))


def breakable(text: str) -> Markup:
    """Text for a narrow cell: keys and ids may break after a dot, hyphen or slash, numbers not."""
    escaped = str(Markup.escape(text))
    return Markup(re.sub(r"(?<=[^\W\d])([./_-])(?=[^\W\d])", r"\1<wbr>", escaped))


def latex(table: Table, study: Study) -> str:
    """The table for LaTeX with booktabs; the code and seeds behind it in a comment."""
    num_columns = len(table.header)
    words = table.num_text_columns
    lines = [
        f"% {study.spec}, {study.profile} profile; commits: {tables.commits_text(study.shown)}",
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * words}{'r' * (num_columns - words)}}}",
        r"\toprule",
    ]
    if table.groups:
        spans = (rf"\multicolumn{{{n}}}{{c}}{{{_tex(label)}}}" for label, n in table.groups)
        lines.append(" & ".join(spans) + r" \\")
        start = 1
        for label, span in table.groups:
            if label:
                lines.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
    lines += [" & ".join(map(_tex, table.header)) + r" \\", r"\midrule"]
    lines += [
        " & ".join(_tex_cell(cell, i < words) for i, cell in enumerate(row)) + r" \\"
        for row in table.rows
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_cell(cell: Cell, is_words: bool) -> str:
    """A number with its interval small behind it; words without their second line."""
    if is_words or not cell.detail:
        return _tex(cell.text)
    return rf"{_tex(cell.text)} {{\scriptsize {_tex(cell.detail)}}}"


def _tex(text: str) -> str:
    # A bracket at the start of a row would be taken for the optional argument of \\.
    escaped = "".join(LATEX_SPECIAL.get(letter, letter) for letter in text)
    escaped = "--" if escaped == "-" else re.sub(r"(?<![\w}])-(?=\d)", "$-$", escaped)
    return "{[}" + escaped[1:] if escaped.startswith("[") else escaped
