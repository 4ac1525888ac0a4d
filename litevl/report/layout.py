"""What a report shows, task by task: columns, baselines, figures and words, all in one place."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litevl.report.runs import Study
from litevl.schema import Record, SplitCounts
from litevl.tasks import ALL_TASKS, Task, task_of, task_of_metric

DATASET_TITLES = {
    "msrvtt": "MSRVTT",
    "didemo": "DiDeMo",
    "msvd-qa": "MSVD-QA",
    "msrvtt-qa": "MSRVTT-QA",
}


@dataclass(frozen=True)
class Column:
    """A metric as a column of a table."""

    metric: str
    label: str
    group: str = ""
    """The heading above the column and its neighbours, if any."""
    is_part: bool = False
    """Over a part of the queries: the label says how many, and without any the column is left out
    where something ran."""


@dataclass(frozen=True)
class Baseline:
    """A row at the foot of the main table: what needs no model, by the metric of its column."""

    title: str
    detail: str
    metrics: dict[str, str]
    lacking: str = ""
    """What is said of the queries that keep the first column from 100, if anything."""


@dataclass(frozen=True)
class Panel:
    """A figure of one metric, a row for each variant, with a dashed line where it has one."""

    metric: str
    title: str
    stem: str
    line: float | str | None = None
    """A number, or the metric of a baseline."""
    line_words: str = ""


@dataclass(frozen=True)
class Curve:
    """A figure of what a run's record says of its training, by step."""

    stem: str
    title: str
    points: Callable[[Record], list[tuple[int, float | None]]]
    chance: float | None = None


@dataclass(frozen=True)
class Layout:
    """A task's choices. The first compared column is the one that stands for the whole result."""

    queries: str
    headline: str
    """The first compared column at the head of a figure."""
    columns: tuple[Column, ...]
    short_groups: dict[str, str]
    """Group -> what a column's label begins with where no heading stands above it."""
    note: str
    baselines: tuple[Baseline, ...]
    compared: tuple[Column, ...]
    combined: tuple[Column, ...]
    combined_note: str
    panels: tuple[Panel, ...]
    curves: tuple[Curve, ...]
    counts: tuple[tuple[str, Callable[[SplitCounts], int | None]], ...]
    """Columns of the data table beside the clips."""
    pair_words: str
    examples_title: str
    examples_note: str


SEEDS_NOTE = (
    "Values are means over the seeds; in brackets 95 % intervals from a bootstrap over source "
    "videos."
)
RECALL_NOTE = (
    "R@k: percentage of captions whose right clip is among the first k, ties against us. MdR: "
    "median rank, lower is better."
)
FRAMES_NOTE = (
    "Under each frame its weight in text-dependent pooling, 1 is no preference; patches that weigh "
    "less are darker. Under mean pooling every weight is 1."
)
LOSS = Curve("curve-loss", "Training loss", lambda r: [(p.step, p.loss) for p in r.curves.train])

RETRIEVAL = Layout(
    queries="captions",
    headline="R@1",
    columns=(
        Column("t2v/R@1", "R@1", "Text to video"),
        Column("t2v/R@5", "R@5", "Text to video"),
        Column("t2v/R@10", "R@10", "Text to video"),
        Column("t2v/MdR", "MdR", "Text to video"),
        Column("v2t/R@1", "R@1", "Video to text"),
        Column("v2t/R@5", "R@5", "Video to text"),
        Column("v2t/R@10", "R@10", "Video to text"),
        Column("t2v-itc/R@1", "t2v R@1", "No re-ranking"),
        Column("order_accuracy", "order accuracy", "Use of time"),
        Column("shuffle_sensitivity", "shuffle sensitivity", "Use of time"),
    ),
    short_groups={
        "Text to video": "t2v",
        "Video to text": "v2t",
        "No re-ranking": "no re-ranking,",
    },
    note=(
        "R@k: percentage of queries whose right answer is among the first k, ties against us. "
        "MdR: median rank, lower is better. No re-ranking: by the two encoders' similarity alone, "
        "before the cross-encoder sees the candidates. Order accuracy: percentage of captions that "
        "beat their time-reversed twin, 50 is chance. Shuffle sensitivity: points of text-to-video "
        f"R@1 lost when the frames are shuffled. {SEEDS_NOTE}"
    ),
    baselines=(),
    compared=(
        Column("t2v/R@1", "t2v R@1"),
        Column("t2v/R@5", "t2v R@5"),
        Column("v2t/R@1", "v2t R@1"),
        Column("order_accuracy", "order accuracy"),
    ),
    combined=(
        Column("t2v/R@1", "R@1"),
        Column("t2v/R@5", "R@5"),
        Column("t2v/R@10", "R@10"),
        Column("t2v/MdR", "MdR"),
    ),
    combined_note=f"Text to video. {RECALL_NOTE}",
    panels=(
        Panel("t2v/R@1", "Text-to-video R@1 (%)", "ablation-recall"),
        Panel("order_accuracy", "Order accuracy (%)", "ablation-order", 50.0, "chance"),
    ),
    curves=(
        LOSS,
        Curve(
            "curve-validation-recall",
            "Validation t2v R@1 (%), without re-ranking",
            lambda r: [(p.step, p.recall_at_1) for p in r.curves.validation],
        ),
        Curve(
            "curve-validation-order",
            "Validation order accuracy (%)",
            lambda r: [(p.step, p.order_accuracy) for p in r.curves.validation],
            50.0,
        ),
    ),
    counts=(("captions", lambda split: split.captions),),
    pair_words="one caption and one clip through the cross-encoder, the clip already encoded",
    examples_title="Retrieved clips",
    examples_note=f"The clips ranked first for captions answered right and wrong. {FRAMES_NOTE}",
)

GROUPS = ("", "/what", "/who", "/how", "/when", "/where", "/other", "/order")
BEST_FIXED = "the majority answer of each type"
BY_TYPE = "Accuracy by type of question"
QUESTION_ANSWERING = Layout(
    queries="questions",
    headline="Accuracy",
    columns=(
        Column("accuracy", "accuracy", "All questions"),
        Column("accuracy/what", "what", BY_TYPE, is_part=True),
        Column("accuracy/who", "who", BY_TYPE, is_part=True),
        Column("accuracy/how", "how", BY_TYPE, is_part=True),
        Column("accuracy/when", "when", BY_TYPE, is_part=True),
        Column("accuracy/where", "where", BY_TYPE, is_part=True),
        Column("accuracy/other", "other", BY_TYPE, is_part=True),
        Column("accuracy/order", "order questions", "Use of time", is_part=True),
        Column("shuffle_sensitivity", "shuffle sensitivity", "Use of time"),
    ),
    short_groups={BY_TYPE: "accuracy,", "Use of time": "use of time:"},
    note=(
        "Accuracy: percentage of questions whose first answer is the right one, word for word; n: "
        "over how many questions. Order questions: those that only the order of the frames "
        "answers. Shuffle sensitivity: points of accuracy lost when the frames are shuffled. The "
        "rows at the foot need no model and are the same beside every variant. Majority answers "
        "are chosen in hindsight, on the very questions that they are counted on, so no fixed "
        f"answers do better. {SEEDS_NOTE}"
    ),
    baselines=(
        Baseline(
            "Majority answer",
            "baseline: the best single answer to all questions of the column",
            {f"accuracy{group}": f"majority{group}" for group in GROUPS},
        ),
        Baseline(
            "Majority answer of each type",
            "baseline: the best single answer to each type of question",
            {f"accuracy{group}": f"type-majority{group}" for group in GROUPS},
        ),
        Baseline(
            "Answerable",
            "ceiling: questions whose answer is in the list",
            {"accuracy": "answerable"},
            "have an answer outside the list and count as wrong",
        ),
    ),
    compared=(
        Column("accuracy", "accuracy"),
        Column("accuracy/order", "order questions", is_part=True),
    ),
    combined=(Column("accuracy", "accuracy"),),
    combined_note="Accuracy: percentage of questions whose first answer is the right one.",
    panels=(
        Panel("accuracy", "Accuracy (%)", "ablation-accuracy", "type-majority", BEST_FIXED),
        Panel(
            "accuracy/order",
            "Accuracy on order questions (%)",
            "ablation-order",
            "type-majority/order",
            BEST_FIXED,
        ),
    ),
    curves=(
        LOSS,
        Curve(
            "curve-validation-accuracy",
            "Validation accuracy (%)",
            lambda r: [(p.step, p.accuracy) for p in r.curves.validation],
        ),
        Curve(
            "curve-validation-order",
            "Validation accuracy on order questions (%)",
            lambda r: [(p.step, p.order_accuracy) for p in r.curves.validation],
        ),
    ),
    counts=(
        ("questions", lambda split: split.questions),
        ("answer not in the list", lambda split: split.outside_list),
    ),
    pair_words="a question with one answer of the longest kind, the clip already encoded",
    examples_title="Answered questions",
    examples_note=(
        "Questions answered right and wrong, their clip, and the answers ranked first with their "
        f"log-likelihoods. {FRAMES_NOTE}"
    ),
)

LAYOUTS: dict[Task, Layout] = {"retrieval": RETRIEVAL, "question-answering": QUESTION_ANSWERING}


def dataset_of(study: Study) -> str:
    """The data set that a study's records name, or else its plan; "" where nobody says."""
    named: list[object] = []
    for run in study.runs:
        if run.record is not None:
            table = run.record.spec.get("data")
            named.append(run.record.data.dataset if run.record.data else None)
            named.append(table.get("dataset") if isinstance(table, dict) else None)
    if study.plan is not None:
        named.append(Path(study.plan.spec_file).stem.replace("_", "-"))
    named.append(study.spec)
    return next((name for name in named if isinstance(name, str) and name in ALL_TASKS), "")


def layout_of(study: Study) -> Layout:
    """What a study's report shows: of its data set's task, or else of its claims' metrics."""
    dataset = dataset_of(study)
    if dataset:
        return LAYOUTS[task_of(dataset)]
    plan = study.plan
    asked = [entry.metric for entry in plan.claims] if plan is not None else []
    is_question = any(task_of_metric(metric) == "question-answering" for metric in asked)
    return LAYOUTS["question-answering" if is_question else "retrieval"]
