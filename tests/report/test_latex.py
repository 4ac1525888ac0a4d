"""The tables in LaTeX: each compiles as it is, in a document that only loads booktabs."""

import shutil
import subprocess
from pathlib import Path

import pytest
from all_records import write_all_studies
from records import change_record, run_id

from litevl.report.page import render_all

pytestmark = [
    pytest.mark.latex,
    pytest.mark.usefixtures("no_pictures"),
    pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex on the path"),
]
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""
HOSTILE = 'a_b & 50% $x$ #1 {c} ~ ^ \\ <d> "e" [f]'


def compiled(folder: Path, tables: list[Path]) -> subprocess.CompletedProcess[str]:
    inputs = "\n\n".join(rf"\input{{{path.as_posix()}}}" for path in tables)
    (folder / "paper.tex").write_text(DOCUMENT % inputs)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")


def test_every_table_compiles_whatever_its_words(tmp_path: Path) -> None:
    write_all_studies(tmp_path / "records", ["full", "no-scaling"], seeds=(0, 1))
    write_all_studies(tmp_path / "records", ["full", "no-scaling"], profile="paper")
    folder = tmp_path / "records" / "msrvtt"
    change_record(
        folder,
        run_id("no-scaling", 0),
        lambda record: record.update(status="failed", error=HOSTILE, metrics={}),
    )
    render_all(tmp_path / "records", tmp_path)
    tables = sorted(tmp_path.glob("*/tables/*.tex"))
    names = {path.stem for path in tables}
    assert {"main", "claims", "ablation", "targets", "runs", "combined", "verdicts"} <= names
    done = compiled(tmp_path, tables)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_what_is_not_latex_fails(tmp_path: Path) -> None:
    (tmp_path / "bad.tex").write_text("a_b & c")
    assert compiled(tmp_path, [tmp_path / "bad.tex"]).returncode != 0
