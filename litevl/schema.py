"""The schema of a record and of a plan file, version 1.

Shapes: Q queries (captions or questions), G gallery clips, A listed answers, K clips or answers
kept, E example queries, T frames, S pixels.

A change that would make an old file unreadable, or mean something else, raises SCHEMA.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from litevl.data.annotations import OTHER_TYPE, QUESTION_TYPES
from litevl.spec import Claim, Profile, Provenance, Published, Start, Target
from litevl.tasks import Task

Arrays = dict[str, NDArray[Any]]
Status = Literal["complete", "failed", "interrupted"]

SCHEMA = 1

# Name -> kinds of numpy dtype, then axes: a letter has one length per file, a digit is that length.
QUERY_ARRAYS = {
    "query_ids": "U Q",
    "captions": "U Q",
    "gallery_ids": "U G",
    "clusters": "iu Q",
    "truth": "iu Q",
    "t2v_ranks": "iu Q 2",
    "v2t_ranks": "iu G 2",
}
OPTIONAL_QUERY_ARRAYS = {
    "t2v_itc_ranks": "iu Q 2",
    "v2t_itc_ranks": "iu G 2",
    "order_right": "f Q",
    "t2v_shuffled_ranks": "iu Q 2",
    "t2v_top": "iu Q K",
    "t2v_top_scores": "f Q K",
}
STRIPS_ARRAYS = {
    "queries": "iu E",
    "top": "iu E K",
    "scores": "f E K",
    "frames": "u E K T S S 3",
    "frame_weights": "f E K T",
    "right": "b E",
}
OPTIONAL_STRIPS_ARRAYS = {"patch_weights": "f E K N"}
MOST_PIXELS = 112  # the side of a frame in a film strip
QUESTION_ARRAYS = {
    "query_ids": "U Q",
    "questions": "U Q",
    "answers": "U Q",  # the gold ones
    "kinds": "U Q",  # question types
    "clip_ids": "U Q",
    "clusters": "iu Q",
    "answer_list": "U A",
    "top": "iu Q K",  # places in answer_list, best first
    "top_scores": "f Q K",
    "right": "f Q",  # 1 where the first of `top` is the gold answer, else 0
    "in_list": "f Q",  # 1 where the gold answer is listed, else 0
}
OPTIONAL_QUESTION_ARRAYS = {
    "needs_order": "b Q",  # only the order of frames tells the answer
    "shuffled_right": "f Q",
}
QUESTION_STRIPS = {
    "queries": "iu E",
    "frames": "u E T S S 3",
    "frame_weights": "f E T",
    "right": "b E",
}
OPTIONAL_QUESTION_STRIPS = {"patch_weights": "f E N"}

Tables = tuple[dict[str, str], dict[str, str]]  # arrays required, arrays optional
ARRAY_TABLES: dict[Task, Tables] = {
    "retrieval": (QUERY_ARRAYS, OPTIONAL_QUERY_ARRAYS),
    "question-answering": (QUESTION_ARRAYS, OPTIONAL_QUESTION_ARRAYS),
}
STRIPS_TABLES: dict[Task, Tables] = {
    "retrieval": (STRIPS_ARRAYS, OPTIONAL_STRIPS_ARRAYS),
    "question-answering": (QUESTION_STRIPS, OPTIONAL_QUESTION_STRIPS),
}


class Part(BaseModel):
    """A piece of a record: frozen, nothing unknown, nothing infinite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # not null: the JSON writer then refuses them
        populate_by_name=True,
    )


class Limits(Part):
    """What cut the run short on purpose; None means no limit."""

    subset: int | None = None
    max_steps: int | None = None


RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=200)]  # names files


class RunPart(Part):
    id: RunId
    spec: str
    title: str
    profile: Profile
    profile_reason: str
    variant: str
    seed: int
    started: str
    comparable: bool
    not_comparable_because: tuple[str, ...] = ()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _reasons_fit(self) -> Self:
        if self.comparable == bool(self.not_comparable_because):
            raise ValueError("a comparable run has no not_comparable_because, any other has some")
        return self


class Code(Part):
    """What ran. commit: a git hash, or "source:<hash of the package's files>" outside git."""

    version: str
    commit: str | None
    dirty: bool


class Hardware(Part):
    device: str
    processor: str
    cores: int
    memory_gib: float
    python: str
    platform: str
    threads: int
    processes: int = 1


class SplitCounts(Part):
    """Clips the spec expects, found and broken, and the captions or questions of the clips used.

    questions and outside_list, those whose gold answer is not listed: question answering only.
    """

    expected: int
    found: int
    broken: int
    captions: int
    questions: int | None = None
    outside_list: int | None = None


class ListedPart(Part):
    """Where the declared answers come from, and those of them that no training question has.

    only_validation: answers that validation questions have; only_test: that test questions alone
    have. A list that holds such tells of the questions it is tested on.
    """

    source: str
    count: int
    only_validation: tuple[str, ...]
    only_test: tuple[str, ...]


class DataPart(Part):
    dataset: str
    fingerprint: str
    splits: dict[str, SplitCounts]
    notes: tuple[str, ...] = ()
    answer_list: ListedPart | None = None  # question answering; older records lack it


class Weights(Part):
    """Where the weights came from, and what became of every tensor."""

    source: str
    sha256: str
    loaded: int
    new_by_design: tuple[str, ...]
    dropped_by_design: tuple[str, ...]
    layout: str | None = None  # records from before other layouts could be read lack the rest
    revision: str | None = None  # the commit of a hub repository
    fresh: tuple[str, ...] = ()  # drawn at random because the spec asked for it
    resized: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Timings(Part):
    data: float
    train: float
    evaluate: float
    total: float


class Cost(Part):
    parameters: int
    flops_per_clip: int
    flops_per_pair: int
    peak_memory_gib: float
    device_hours: float
    waiting_share: float | None = None
    """Of the time of training steps, until the next batch was ready; older records lack it."""


class Selection(Part):
    select: Literal["last", "best-validation"]
    epoch: int


class Value(Part):
    """A metric with its 95 % interval over n queries; no ends where no interval can be given."""

    value: float
    low: float | None
    high: float | None
    n: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _ends_in_order(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has both ends or neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval starts at {self.low} and ends at {self.high}")
        return self


class Metrics(Part):
    test: dict[str, Value] = {}
    validation: dict[str, Value] = {}


class TrainPoint(Part):
    """A step's loss, and the two parts that retrieval's has: contrastive and matching."""

    step: int
    loss: float
    vtc: float | None = None
    vtm: float | None = None
    learning_rate: float


class ValidationPoint(Part):
    """After an epoch. Retrieval: dual encoder only, re-ranking would cost more than it tells."""

    step: int
    recall_at_1: Annotated[float | None, Field(alias="t2v-itc/R@1")] = None
    accuracy: float | None = None
    order_accuracy: float | None = None
    """Of captions against their twins; in question answering, of the questions about order."""

    @model_validator(mode="after")
    def _is_of_one_task(self) -> Self:
        if (self.recall_at_1 is None) == (self.accuracy is None):
            raise ValueError("a validation point has either t2v-itc/R@1 or accuracy")
        return self


class Curves(Part):
    train: tuple[TrainPoint, ...] = ()
    validation: tuple[ValidationPoint, ...] = ()


class Record(Part):
    """Everything one run leaves behind except its per-query arrays; see `read_record`."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    status: Status
    error: str | None = None
    run: RunPart
    spec: dict[str, Any]
    code: Code
    packages: dict[str, str]
    hardware: Hardware
    data: DataPart | None = None
    weights: Weights | None = None
    timings_seconds: Timings | None = None
    cost: Cost | None = None
    selection: Selection | None = None
    metrics: Metrics = Metrics()
    curves: Curves = Curves()
    temporal_scale: tuple[tuple[float, ...], ...] | None = None

    @model_validator(mode="after")
    def _status_fits(self) -> Self:
        parts = {
            "data": self.data,
            "weights": self.weights,
            "timings_seconds": self.timings_seconds,
            "cost": self.cost,
            "selection": self.selection,
            "metrics.test": self.metrics.test or None,
        }
        missing = [name for name, part in parts.items() if part is None]
        if self.status == "complete" and (missing or self.error is not None):
            raise ValueError(f"a complete run has no error and no part missing; missing: {missing}")
        if self.status == "failed" and not self.error:
            raise ValueError("a failed run says in error what went wrong")
        if len({len(layer) for layer in self.temporal_scale or ()}) > 1:
            raise ValueError("temporal_scale should have the same frames in every layer")
        return self


class VariantTitle(Part):
    name: str
    title: str


class RunEstimate(Part):
    """What one whole run of a variant should cost; see `litevl.cost`."""

    variant: str
    num_runs: Annotated[int, Field(ge=1)]
    parameters: int
    flops_per_clip: int
    flops_per_pair: int
    """With the longest texts that the spec allows, as in records."""
    flops_per_step: float
    """Forward and backward."""
    train_flops: float
    evaluate_flops: float
    device_hours: float


class PlanFile(Part):
    """What one command meant to run: which records a report shows, and what it tests with them."""

    ids: tuple[RunId, ...]
    spec_file: str
    claims: tuple[Claim, ...] = ()
    targets: tuple[Target, ...] = ()
    published: tuple[Published, ...] = ()
    provenance: dict[str, Provenance] = {}
    start: Start | None = None
    estimates: tuple[RunEstimate, ...] = ()
    assumptions: dict[str, float] = {}
    """What the estimates take for granted."""
    variants: tuple[VariantTitle, ...]
    command: str


def array_problems(
    arrays: Mapping[str, NDArray[Any]], required: dict[str, str], optional: dict[str, str]
) -> list[str]:
    """What keeps the arrays from being the ones described, one line each."""
    known, sizes = required | optional, dict[str, int]()
    problems = [f"{name} is missing" for name in required if name not in arrays]
    for name, array in arrays.items():
        if name not in known:
            problems.append(f"{name} is unknown")
            continue
        kinds, *axes = known[name].split()
        fits = array.dtype.kind in kinds and array.ndim == len(axes)
        for axis, size in zip(axes, array.shape, strict=False):
            wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            fits = fits and wanted == size
        if not fits:
            wanted_shape = ", ".join(axes)
            problems.append(f"{name} should be ({wanted_shape}), got {array.dtype} {array.shape}")
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            problems.append(f"{name} holds NaN or infinity")
    return problems or value_problems(arrays, sizes)


INDEXED = {"truth": "G", "t2v_top": "G", "top": "A"}  # array -> the axis its values are places on
RANKED = {"t2v": "G", "v2t": "Q"}  # direction -> the axis its ranks count along


def value_problems(arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]) -> list[str]:
    """Values that cannot be: places and ranks that are not there, answers neither right nor wrong,
    or not as the first of `top` has it, unknown types of questions, no queries at all.

    sizes: of each axis of these arrays, whose shapes and dtypes are the ones described.
    """
    problems = [f"no entries on axis {axis}" for axis in "QGAKTS" if sizes.get(axis) == 0]
    for name, array in arrays.items():
        axis = INDEXED.get(name, "")
        if not array.size:
            continue
        if axis in sizes and (array.min() < 0 or array.max() >= sizes[axis]):
            problems.append(f"{name} should hold places from 0 to {sizes[axis] - 1}")
        elif name.endswith("_ranks") and (array.min() < 1 or (array[:, 0] > array[:, 1]).any()):
            problems.append(f"{name} should hold ranks from 1, the best before the worst")
        elif name.endswith("_ranks") and array.max() > sizes[RANKED[name[:3]]]:
            problems.append(f"{name} should hold ranks up to {sizes[RANKED[name[:3]]]}")
        elif name == "order_right" and not np.isin(array, (0, 0.5, 1)).all():
            problems.append(f"{name} should hold only 0, 0.5 and 1")
        elif name == "kinds" and not np.isin(array, (*QUESTION_TYPES, OTHER_TYPE)).all():
            types = ", ".join((*QUESTION_TYPES, OTHER_TYPE))
            problems.append(f"{name} should hold only {types}")
        elif name in ("right", "in_list", "shuffled_right") and not np.isin(array, (0, 1)).all():
            problems.append(f"{name} should hold only 0 and 1")
        elif name == "right" and (array > arrays.get("in_list", 1)).any():
            problems.append("right is 1 where in_list is 0")
    if not problems and {"answer_list", "top", "right"} <= arrays.keys():
        first = arrays["answer_list"][arrays["top"][:, 0]]  # (Q,)
        if not np.array_equal(first == arrays["answers"], arrays["right"] == 1):
            problems.append("right is not 1 just where the first of top is the gold answer")
    return problems


def strips_problems(
    strips: Mapping[str, NDArray[Any]], arrays: Mapping[str, NDArray[Any]]
) -> list[str]:
    """What keeps film strips from being about the queries of these arrays."""
    limits = {"queries": len(arrays["query_ids"])}
    limits |= {"top": len(arrays["gallery_ids"])} if "gallery_ids" in arrays else {}
    return [
        f"{name} should hold places from 0 to {limit - 1}"
        for name, limit in limits.items()
        if name in strips
        and strips[name].size
        and (strips[name].min() < 0 or strips[name].max() >= limit)
    ]
