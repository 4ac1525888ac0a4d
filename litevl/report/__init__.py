"""Reports rendered from records and nothing else."""

from litevl.report.page import render_report

__all__ = ["render_report"]
