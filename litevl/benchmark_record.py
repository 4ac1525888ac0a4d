"""What a benchmark leaves behind: times, counts and the machine in one JSON file, schema version 1.

Written by `benchmarks.speed` under its own name, which does not change, so that two commits' files
lie at the same place in two folders and `litevl compare` finds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from litevl.record import read_json
from litevl.schema import Code, Hardware, Part
from litevl.whole import write_bytes

Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./-]*$", max_length=100)]
Conditions = dict[str, str | int | float]
PROCESSOR_PARTS = ("device", "processor", "cores", "threads")  # what a time depends on first


class Quartiles(Part):
    """The middle of what was measured, and the quarters below and above it."""

    low: float
    median: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"quartiles out of order: {self.low}, {self.median}, {self.high}")
        return self


class Contender(Part):
    """One way to do a row's task: seconds of one call, and what a call gets done."""

    name: Name
    seconds: Quartiles
    items: Annotated[float, Field(gt=0)]
    """How many of the row's items one call gets done."""
    flops: Count | None = None
    """Operations of one call, two for each multiplication and addition."""
    bytes: Count | None = None
    """Of the tensors that one call reads and writes at least."""
    peak_memory_mib: Annotated[float, Field(gt=0)] | None = None
    """Of a fresh process that does nothing else."""

    @property
    def rate(self) -> float:
        """Items a second, at the median."""
        return self.items / self.seconds.median


class Ratio(Part):
    """How many times as fast `faster` is as `slower`, per item, paired round by round."""

    faster: Name
    slower: Name
    times: Quartiles


class Row(Part):
    """One task under one set of conditions, done by all contenders in turn in one process."""

    name: Name
    item: str
    """What is counted, in the plural: "pairs"."""
    rounds: Annotated[int, Field(ge=1)]
    conditions: Conditions
    contenders: Annotated[tuple[Contender, ...], Field(min_length=1)]
    ratios: tuple[Ratio, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [contender.name for contender in self.contenders]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: a contender is named twice")
        strange = {name for ratio in self.ratios for name in (ratio.faster, ratio.slower)}
        if strange - set(names):
            raise ValueError(f"{self.name}: a ratio of {sorted(strange - set(names))}, not there")
        return self

    def contender(self, name: str) -> Contender:
        """The contender of that name; KeyError where there is none."""
        return {each.name: each for each in self.contenders}[name]


class Figure(Part):
    """A number that was asked for beforehand, and what came out."""

    name: Name
    claim: str
    """What is asked, as a sentence without its number."""
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    value: float | None
    """None where it was not measured."""
    why_not: str | None = None

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.name}: a figure has either at_least or at_most")
        if (self.value is None) == (self.why_not is None):
            raise ValueError(f"{self.name}: a figure has a value, or why there is none")
        return self

    @property
    def is_met(self) -> bool | None:
        """Whether the number is as asked; None where it was not measured."""
        if self.value is None:
            return None
        if self.at_least is not None:
            return self.value >= self.at_least
        assert self.at_most is not None
        return self.value <= self.at_most


class BenchmarkRecord(Part):
    """All that one benchmark measured in one go."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=100)]  # names its file
    title: str
    quick: bool
    """Small sizes, to try that it works; its numbers mean nothing."""
    code: Code
    packages: dict[str, str]
    hardware: Hardware
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for parts in (self.rows, self.figures):
            names = [part.name for part in parts]
            if len(set(names)) < len(names):
                raise ValueError(f"{self.name}: a row or figure is named twice")
        return self


def write_benchmark(folder: Path, record: BenchmarkRecord) -> Path:
    """Write `<name>.json` into the folder, over an older one; returns its path. RunError."""
    path = folder / f"{record.name}.json"
    document = record.model_dump(mode="json", by_alias=True)
    write_bytes(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    return path


def read_benchmark(path: Path) -> BenchmarkRecord:
    """The record in a JSON file. DataError, naming the file, if it is not a whole one."""
    return read_json(path, BenchmarkRecord)


def read_benchmarks(folder: Path) -> list[BenchmarkRecord]:
    """All records of a folder, by name; none where there is no such folder. DataError as above."""
    return [read_benchmark(path) for path in sorted(folder.glob("*.json"))]


def same_machine(one: Hardware, other: Hardware) -> bool:
    """Whether times of the two may be set side by side."""
    return all(getattr(one, part) == getattr(other, part) for part in PROCESSOR_PARTS)


def machine_words(hardware: Hardware) -> str:
    """The machine in words: "AMD EPYC, 2 cores, 2 threads, 23.4 GiB, cpu"."""
    return (
        f"{hardware.processor}, {hardware.cores} cores, {hardware.threads} threads, "
        f"{hardware.memory_gib:g} GiB, {hardware.device}"
    )
