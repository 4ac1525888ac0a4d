"""The skip rule itself, tried on small test suites."""

import pytest

pytest_plugins = ["pytester"]

SKIPPING = """
import pytest

{mark}
def test_something():
    pytest.skip("{reason}")
"""


def run(pytester, *files, arguments=()):
    """Run pytest with the skip rule on the given sources and return its result."""
    for number, source in enumerate(files):
        pytester.makepyfile(**{f"test_{number}": source})
    pytester.makeini("[pytest]\nmarkers =\n    gpu: needs a CUDA device\n")
    return pytester.runpytest("-p", "skips", *arguments)


def test_skip_for_something_the_machine_lacks_passes(pytester):
    source = SKIPPING.format(mark="@pytest.mark.gpu", reason="needs a CUDA device")
    result = run(pytester, source)
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ("", "needs a CUDA device"),
        ("@pytest.mark.gpu", "does not work yet"),
        ("", "does not work yet"),
    ],
)
def test_unexpected_skip_fails_the_run_and_is_named(pytester, mark, reason):
    result = run(pytester, SKIPPING.format(mark=mark, reason=reason))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*unexpected skips*", f"*test_0.py::test_something: {reason}"])


def test_skipped_module_fails_the_run(pytester):
    result = run(pytester, 'import pytest\npytest.importorskip("no_such_package")\n')
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*test_0.py: could not import 'no_such_package'*"])


def test_expected_failure_is_not_a_skip(pytester):
    source = "import pytest\n\n@pytest.mark.xfail\ndef test_something():\n    assert False\n"
    result = run(pytester, source)
    result.assert_outcomes(xfailed=1)
    assert result.ret == pytest.ExitCode.OK


def test_skip_in_a_worker_process_is_seen(pytester):
    source = SKIPPING.format(mark="", reason="does not work yet")
    result = run(pytester, source, arguments=("-n", "1"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
