"""The harness of the benchmarks: who is timed when, what is counted, what a record must hold."""

import json

import numpy as np
import pytest
import torch
from benchmark_records import make_benchmark
from pydantic import ValidationError
from torch.nn import functional as F

from benchmarks.harness import (
    Effort,
    Way,
    alternated,
    flops_of,
    measured_row,
    own_peak_mib,
    peak_memory_mib,
    quartiles,
    record_of,
)
from litevl.benchmark_record import (
    BenchmarkRecord,
    Figure,
    read_benchmark,
    read_benchmarks,
    same_machine,
    write_benchmark,
)
from litevl.errors import DataError

CPU = torch.device("cpu")


class Clock:
    """A clock that calls move on by as much as they are said to take."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def way(self, name, seconds, items=1.0):
        times = iter(seconds)

        def call():
            self.calls.append(name)
            self.now += next(times)

        return Way(name, call, items)


def test_contenders_alternate():
    clock = Clock()
    ways = [clock.way("a", [1, 2, 3]), clock.way("b", [4, 5, 6])]
    found = alternated(ways, Effort(seconds=100, rounds=3), CPU, clock)
    assert clock.calls == ["a", "b"] * 3
    assert found == {"a": [1, 2, 3], "b": [4, 5, 6]}


def test_the_first_call_warms_up_and_is_not_timed():
    clock = Clock()
    ways = [clock.way("a", [50, 2, 2, 2]), clock.way("b", [50, 4, 4, 4])]
    row = measured_row("x", "pairs", {}, ways, Effort(100, 3), CPU, clock)
    assert clock.calls == ["a", "b"] * 4
    assert [each.seconds.high for each in row.contenders] == [2, 4]
    assert [each.flops for each in row.contenders] == [None, None]  # nothing of torch's


def test_measuring_ends_when_the_time_is_over_but_not_before_the_fewest_rounds():
    clock = Clock()
    way = clock.way("a", [1.0] * 20)
    effort = Effort(seconds=5, rounds=100, fewest=3)
    assert len(alternated([way], effort, CPU, clock)["a"]) == 5
    clock = Clock()
    assert len(alternated([clock.way("a", [10.0] * 20)], effort, CPU, clock)["a"]) == 3


def test_a_ratio_is_of_calls_of_one_round_and_per_item():
    clock = Clock()
    # The machine becomes ten times slower; the ratio does not notice, medians over all would.
    ways = [clock.way("ours", [1, 1, 1, 10], items=2.0), clock.way("peer", [3, 3, 3, 30])]
    row = measured_row("x", "pairs", {}, ways, Effort(100, 3), CPU, clock)
    assert row.ratios[0].times.model_dump() == {"low": 6, "median": 6, "high": 6}
    assert (row.ratios[0].faster, row.ratios[0].slower) == ("ours", "peer")
    assert row.contender("ours").rate == 2.0
    assert row.rounds == 3


def test_quartiles_are_those_of_numpy():
    values = [5.0, 1.0, 2.0, 9.0]
    found = quartiles(values)
    assert [found.low, found.median, found.high] == np.quantile(values, [0.25, 0.5, 0.75]).tolist()


def test_operations_are_counted_as_two_for_each_product():
    left, right = torch.zeros(3, 5), torch.zeros(5, 7)
    assert flops_of(lambda: left @ right) == 2 * 3 * 5 * 7


def test_attention_is_counted_whichever_kernel_does_it():
    query, key = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8)
    in_one = flops_of(lambda: F.scaled_dot_product_attention(query, key, key))
    assert in_one == flops_of(lambda: (query @ key.transpose(2, 3)) @ key) > 0


def holds(num_mib):
    """Allocates so much, touches it, and returns the number."""
    block = np.ones(num_mib << 17)  # of 8 bytes
    return int(block[:: 1 << 17].sum())


def test_peak_memory_is_that_of_a_fresh_process():
    # What this process held must not count: Linux adds it to getrusage's peak of a new process.
    holds(600)
    assert own_peak_mib() > 600
    small, result = peak_memory_mib(holds, 1)
    large, _ = peak_memory_mib(holds, 101)
    assert result == 1
    assert small < 500
    assert large - small == pytest.approx(100, abs=20)


def fails():
    raise SystemExit(3)


def test_a_fresh_process_that_comes_down_is_told_of():
    with pytest.raises(RuntimeError, match=r"fails\(\): its process ended with 3"):
        peak_memory_mib(fails)


# Records


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = make_benchmark()
    assert read_benchmark(write_benchmark(tmp_path, record)) == record
    assert [each.name for each in read_benchmarks(tmp_path)] == ["re-ranking"]
    assert read_benchmarks(tmp_path / "nowhere") == []


def test_a_record_says_which_machine_and_code_measured(tmp_path):
    record = record_of("nothing", "Nothing", [], [], CPU, quick=True)
    assert record.hardware.threads == torch.get_num_threads()
    assert record.hardware.cores >= 1
    assert record.packages["torch"] == torch.__version__
    assert record.code.commit
    assert json.loads(write_benchmark(tmp_path, record).read_text())["schema"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "reads schema 1, found 2"),
        ({"rows": [{}]}, "rows.0"),
        ({"surprise": 1}, "surprise"),
        ({"name": "../elsewhere"}, "name"),
    ],
)
def test_a_record_that_is_damaged_is_refused_with_its_name(tmp_path, change, words):
    path = write_benchmark(tmp_path, make_benchmark())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=words) as refusal:
        read_benchmark(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {
            "ratios": [
                {"faster": "ours", "slower": "x", "times": {"low": 1, "median": 1, "high": 1}}
            ]
        },
        {"contenders": []},
        {"rounds": 0},
    ],
)
def test_rows_that_cannot_be_are_refused(change):
    document = make_benchmark().model_dump(mode="json", by_alias=True)
    document["rows"][0] |= change
    with pytest.raises(ValidationError):
        BenchmarkRecord.model_validate_json(json.dumps(document))


def test_rows_and_figures_are_named_once():
    document = make_benchmark().model_dump(mode="json", by_alias=True)
    document["rows"] *= 2
    with pytest.raises(ValidationError, match="named twice"):
        BenchmarkRecord.model_validate_json(json.dumps(document))


@pytest.mark.parametrize(
    ("value", "target", "is_met"),
    [
        (6.0, {"at_least": 6.0}, True),
        (5.9, {"at_least": 6.0}, False),
        (1.05, {"at_most": 1.05}, True),
        (1.06, {"at_most": 1.05}, False),
    ],
)
def test_a_figure_is_met_by_its_value_alone(value, target, is_met):
    figure = Figure(name="x", claim="It is fast.", unit="times", value=value, **target)
    assert figure.is_met is is_met


def test_a_figure_without_a_value_is_neither_met_nor_missed_and_says_why():
    figure = Figure(
        name="x", claim="It is fast.", unit="times", at_least=1, value=None, why_not="no GPU"
    )
    assert figure.is_met is None
    with pytest.raises(ValidationError, match="why there is none"):
        Figure(name="x", claim="It is fast.", unit="times", at_least=1, value=None)
    with pytest.raises(ValidationError, match="either at_least or at_most"):
        Figure(name="x", claim="It is fast.", unit="times", value=1)


def test_machines_differ_in_what_times_depend_on():
    machine = make_benchmark().hardware
    assert same_machine(machine, machine.model_copy(update={"python": "3.12.1"}))
    for part, other in (("processor", "Other"), ("cores", 64), ("threads", 9), ("device", "cuda")):
        assert not same_machine(machine, machine.model_copy(update={part: other}))
