"""A pytest plugin: a skip that nobody expects fails the run.

A test may skip only for something this machine lacks, and says so twice: by a marker (the
keys of ALLOWED) and by its reason, which starts as ALLOWED has it. Everything else that is
skipped would be a hole in the suite that nobody sees. Loaded by `addopts` in pyproject.toml.
"""

import pytest

# marker -> what the reason has to start with
ALLOWED = {
    "gpu": "needs a CUDA device",
    "weights": "needs the BLIP weights",
    "data": "needs the annotation files",
    "browser": "needs Chromium",
    "latex": "needs pdflatex",
}


def is_expected(markers, reason):
    """Whether a skip with these markers and this reason is on the list."""
    return any(mark in markers and reason.startswith(start) for mark, start in ALLOWED.items())


def skip_reason(longrepr):
    """Return the reason given for a skip; a report has it as (path, line, "Skipped: reason")."""
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


class Skips:
    """Collects the unexpected skips of one run and fails the run if there is any."""

    def __init__(self):
        self.unexpected = []

    def note(self, report):
        """Remember a report of a test or module that was skipped, unless that was expected."""
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = skip_reason(report.longrepr)
        if not is_expected(getattr(report, "keywords", {}), reason):
            self.unexpected.append((report.nodeid, reason))

    def pytest_runtest_logreport(self, report):
        self.note(report)

    def pytest_collectreport(self, report):
        self.note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session, exitstatus):
        passed = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self.unexpected and passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if not self.unexpected:
            return
        terminalreporter.section("unexpected skips (see tests/skips.py)", red=True)
        for nodeid, reason in self.unexpected:
            terminalreporter.write_line(f"{nodeid}: {reason}")


def pytest_configure(config):
    """Watch the skips in the process that reports; pytest-xdist's workers only pass them on."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(), "unexpected-skips")
