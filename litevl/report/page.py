"""A report as a folder that needs nothing else: page, Markdown, tables, figures."""

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from litevl.errors import DataError, printable
from litevl.record import read_strips
from litevl.report import accounts, combined, tables
from litevl.report.combined import Judged, folder_name
from litevl.report.comparability import footnotes, published_table
from litevl.report.examples import Example, examples_of
from litevl.report.figures import (
    Picture,
    ablation_pictures,
    claim_pictures,
    cost_pictures,
    curve_pictures,
    scale_pictures,
)
from litevl.report.layout import layout_of
from litevl.report.runs import Study, find_studies, load_study, without_folder
from litevl.report.tables import Cell, Table, kinds_text
from litevl.report.verdicts import judge_claims, judge_targets
from litevl.schema import strips_problems
from litevl.spec_problems import COMBINED
from litevl.whole import write_bytes

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
SECTION = re.compile(r'<section id="([a-z_]+)">\s*<h2>(.*?)</h2>')
LINE_STARTS = re.compile(r"^(\d*)([.)](?= |$)|[#>=]|[+-](?= ))")  # of headings, quotes and lists


# What a profile means for a reader, the first and the last thing on its pages.
SCOPES = {
    "mini": (
        "Mini profile: a small model on drawn clips, trained in minutes. It puts the paper's "
        "claims to the test in a small world. Its numbers say nothing about the real data and "
        "are never set beside the paper's."
    ),
    "paper": "Paper profile: the real data and BLIP's weights, at the scale of the paper.",
    "own": "Own data: the paper's claims on somebody's own clips; no published number to compare.",
}


def render_report(
    records_dir: Path, output_dir: Path, spec: str | None = None, profile: str | None = None
) -> Path:
    """Render `<spec>-<profile>/` for every study found, or for the one named, and what they share.

    records_dir: holds `<spec>/<run id>.json` and `<spec>/<profile>.plan.json`.   Returns the page's
    path if there is one study, of several the combined page's, or output_dir where there is no
    such page or more than one. The same records give the same bytes. Errors as `render_all`.
    """
    pages, shared = render_all(records_dir, output_dir, spec, profile)
    if len(pages) == 1:
        return pages[0]
    return shared[0] if len(shared) == 1 else output_dir


def render_all(
    records_dir: Path, output_dir: Path, spec: str | None = None, profile: str | None = None
) -> tuple[list[Path], list[Path]]:
    """Render the studies as `render_report` does; the paths of their pages and the combined ones.

    `combined-<profile>/` is rendered for each profile of these studies that has at least two
    studies under records_dir, always from all of them; a page it leads to is made if it lacks.
    Own data share no page: nothing of theirs is the same.
    Raises DataError if there is nothing to render, RunError if the folder cannot be written.
    """
    found = find_studies(records_dir)
    named = [study for study in found if spec in (None, study[0]) and profile in (None, study[1])]
    if not named:
        raise DataError(
            f"{records_dir}: no records{f' of {spec}' if spec else ''}.\n"
            "  Run a reproduction first: litevl run reproductions/msrvtt.toml"
        )
    if any(study[0] == COMBINED for study in found):
        raise DataError(
            f"{records_dir / COMBINED}: the page of all data sets goes by this name.\n"
            "  Give the spec another name, or move its records away."
        )
    pages, shared = [], []
    for one in dict.fromkeys(profile for _, profile in named):
        of_profile = [study for study in found if study[1] == one]
        if len(of_profile) == 1 or one == "own":
            some = [study for study in of_profile if study in named]
            pages += [_render_study(_judged(records_dir, *study), output_dir) for study in some]
            continue
        judged = [_judged(records_dir, *study) for study in of_profile]
        for study, results in zip(of_profile, judged, strict=True):
            if study in named:
                pages.append(_render_study(results, output_dir))
            elif not (output_dir / folder_name(results.study) / "index.html").exists():
                _render_study(results, output_dir)
        shared.append(_render_combined(judged, output_dir))
    return pages, shared


def _judged(records_dir: Path, spec: str, profile: str) -> Judged:
    study = load_study(records_dir, spec, profile)
    return Judged(study, judge_claims(study), judge_targets(study))


def _render_study(judged: Judged, output_dir: Path) -> Path:
    """One study's folder."""
    study = judged.study
    warnings = accounts.code_warnings(study)
    pictures = ablation_pictures(study) + cost_pictures(study)
    pictures += curve_pictures(study) + scale_pictures(study)
    examples = _examples(study, warnings)
    context = {
        "study": study,
        "layout": layout_of(study),
        "title": study.title,
        "profile": study.profile,
        "scope": SCOPES[study.profile],
        "lead": _lead(judged),
        "warnings": warnings,
        "footnotes": footnotes(study),
        "examples": examples,
        "again": accounts.commands(study),
    }
    folder, comments = output_dir / folder_name(study), [_code_of(study)]
    return _write(folder, "index", context, _tables(judged), pictures, comments, examples)


def _render_combined(judged: list[Judged], output_dir: Path) -> Path:
    """The folder of the page that has all studies of a profile."""
    blocks, profile = combined.blocks_of(judged), judged[0].study.profile
    studies = [block.study for block in blocks if block.study is not None]
    context = {
        "title": "LiteVL on all data sets",
        "profile": profile,
        "scope": SCOPES[profile],
        "lead": combined.lead(blocks),
        "warnings": list(combined.warnings(blocks)),
        "again": [study.plan.command for study in studies if study.plan is not None],
    }
    found = [combined.verdicts_table(blocks), combined.results_table(blocks)]
    found += [combined.claims_table(blocks), combined.studies_table(blocks)]
    pictures = claim_pictures([(block.title, result) for block, result in combined.claims(blocks)])
    comments = [_code_of(study) for study in studies]
    folder = output_dir / f"{COMBINED}-{profile}"
    return _write(folder, "combined", context, found, pictures, comments)


def _write(
    folder: Path,
    template: str,
    context: dict[str, Any],
    found: list[Table],
    pictures: list[Picture],
    comments: list[str],
    examples: Iterable[Example] = (),
) -> Path:
    """Write a page with its tables and figures, and clear away what an earlier rendering left."""
    shown = [table for table in found if table.rows]
    context |= {"tables": {table.stem: table for table in shown}, "pictures": pictures}
    pages = _environment()
    written = {
        folder / "index.html": pages.get_template(f"{template}.html.j2").render(context).encode(),
        folder / "report.md": pages.get_template(f"{template}.md.j2").render(context).encode(),
    }
    for table in shown:
        csv = table.frame.to_csv(index=False, lineterminator="\n")
        written[folder / "tables" / f"{table.stem}.csv"] = csv.encode()
        written[folder / "tables" / f"{table.stem}.tex"] = latex(table, comments).encode()
    for picture in pictures:
        written[folder / "figures" / f"{picture.stem}.png"] = picture.png
    for film in (film for example in examples for film in example.films):
        written[folder / "figures" / f"{film.stem}.jpg"] = film.jpeg
    for path, content in reversed(written.items()):  # pages last: what they link to is there
        write_bytes(path, content)
    for pattern in ("tables/*.csv", "tables/*.tex", "figures/*.png", "figures/*.jpg"):
        for path in folder.glob(pattern):
            if path not in written:
                path.unlink(missing_ok=True)  # another rendering may clear it too
    return folder / "index.html"


def _code_of(study: Study) -> str:
    """Which runs and code stand behind a study's tables, in one line."""
    line = f"{study.spec}, {study.profile} profile; commits: {tables.commits_text(study.shown)}"
    return " ".join(line.split())


def _tables(judged: Judged) -> list[Table]:
    study = judged.study
    return [
        tables.claims_table(study, judged.claims),
        tables.targets_table(study, judged.targets),
        tables.main_table(study),
        published_table(study),
        tables.ablation_table(study),
        tables.withheld_table(study),
        accounts.cost_table(study),
        accounts.estimate_table(study),
        accounts.data_table(study),
        accounts.weights_table(study),
        accounts.settings_table(study),
        accounts.runs_table(study),
        accounts.machines_table(study),
    ]


def _examples(study: Study, warnings: list[str]) -> list[Example]:
    """Those of the reference's first run that has any; what cannot be read becomes a warning."""
    for run in study.published(study.reference):
        try:
            strips = read_strips(run.path)
            if strips is not None and (problems := strips_problems(strips, run.arrays or {})):
                raise DataError(f"{run.path.stem}.strips.npz: damaged: {'; '.join(problems)}")
        except DataError as error:
            warnings.append(without_folder(error, run.path))
            continue
        if strips is not None:
            return examples_of(run, strips)
    return []


def _lead(judged: Judged) -> list[str]:
    """The answer in a few sentences: how much ran, and the verdicts by kind."""
    study, claims, targets = judged.study, judged.claims, judged.targets
    counts = kinds_text(run.outcome for run in study.runs)
    num_withheld = sum(bool(run.reasons) for run in study.runs)
    lines = [f"{len(study.runs)} runs planned: {counts}."]
    if num_withheld:
        lines.append(f"{num_withheld} of them may not be compared and stand in a table apart.")
    if claims:
        lines.append(f"Claims: {kinds_text(result.verdict for result in claims)}.")
    if targets:
        lines.append(f"Published numbers: {kinds_text(result.verdict for result in targets)}.")
    if study.shown:
        lines.append(f"Code of the numbers below: {tables.commits_text(study.shown)}.")
    if study.unasked:
        seeds = ", ".join(map(str, sorted({run.seed for run in study.unasked})))
        lines.append(
            f"{len(study.unasked)} finished runs of these settings (seeds {seeds}) were not asked "
            "for by the last command and are left out."
        )
    if study.num_outdated:
        lines.append(
            f"{study.num_outdated} records of other settings or earlier versions are left out."
        )
    return lines


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("litevl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    filters: dict[str, Callable[..., Any]] = {
        "md": markdown,
        "breakable": breakable,
        "sections": sections,
    }
    environment.filters.update(filters)
    return environment


def _printable(value: Any) -> Any:
    """What a template writes, without letters that turn the order in which a page is read."""
    return type(value)(printable(value)) if isinstance(value, str) else value


def markdown(text: str) -> Markup:
    """Text as Markdown shows it, whatever it holds: no markup, no HTML, one line."""
    plain = MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))
    plain = LINE_STARTS.sub(r"\1\\\2", plain)
    return Markup(plain.replace("&", "&amp;").replace("<", "&lt;"))


def breakable(text: str) -> Markup:
    """Text for a narrow cell: keys and ids may break after a dot, hyphen or slash, numbers not."""
    escaped = str(Markup.escape(text))
    return Markup(re.sub(r"(?<=[^\W\d])([./_-])(?=[^\W\d])", r"\1<wbr>", escaped))


def sections(body: str) -> list[tuple[str, Markup]]:
    """The ids and titles of a page's sections, in their order."""
    return [(id, Markup(title)) for id, title in SECTION.findall(body)]


def latex(table: Table, comments: Iterable[str]) -> str:
    """The table for LaTeX with booktabs, under comments that say what is behind it."""
    num_columns = len(table.header)
    words = table.num_text_columns
    lines = [
        *(f"% {comment}" for comment in comments),
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * words}{'r' * (num_columns - words)}}}",
        r"\toprule",
    ]
    if table.groups:
        spans = (rf"\multicolumn{{{g.span}}}{{c}}{{{_tex(g.label)}}}" for g in table.groups)
        lines.append(" & ".join(spans) + r" \\")
        start = 1
        for group in table.groups:
            if group.label:
                lines.append(rf"\cmidrule(lr){{{start}-{start + group.span - 1}}}")
            start += group.span
    lines += [" & ".join(map(_tex, table.header)) + r" \\", r"\midrule"]
    for rows in (table.rows, table.foot):
        lines += [r"\midrule"] if rows is table.foot and rows else []
        lines += [
            " & ".join(_tex_cell(cell, i < words) for i, cell in enumerate(row)) + r" \\"
            for row in rows
        ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_cell(cell: Cell, is_words: bool) -> str:
    """A number with its interval small behind it; words without their second line."""
    if is_words or not cell.detail:
        return _tex(cell.text)
    return rf"{_tex(cell.text)} {{\scriptsize {_tex(cell.detail)}}}"


def _tex(text: str) -> str:
    # A bracket at the start of a row would be taken for the optional argument of \\.
    one_line = " ".join(printable(text).split())  # an empty line would end the cell
    escaped = "".join(LATEX_SPECIAL.get(letter, letter) for letter in one_line)
    escaped = "--" if escaped == "-" else re.sub(r"(?<![\w}])-(?=\d)", "$-$", escaped)
    return "{[}" + escaped[1:] if escaped.startswith("[") else escaped
