"""The data sets, what is done with each of them, and what that is measured by."""

from typing import Literal, get_args

Task = Literal["retrieval", "question-answering"]
Dataset = Literal["msrvtt", "didemo", "msvd-qa", "msrvtt-qa"]
OwnDataset = Literal["own-retrieval", "own-qa"]  # anybody's clips; see litevl.data.own
AnyDataset = Literal[Dataset, OwnDataset]
SentenceOrder = Literal["annotator-mode", "file"]  # in DiDeMo's paragraphs
TASKS: dict[str, Task] = {
    "msrvtt": "retrieval",
    "didemo": "retrieval",
    "msvd-qa": "question-answering",
    "msrvtt-qa": "question-answering",
}
OWN_TASKS: dict[str, Task] = {"own-retrieval": "retrieval", "own-qa": "question-answering"}
ALL_TASKS = TASKS | OWN_TASKS

# A claim is a paired difference, better minus worse, so it takes metrics where higher is better
# and that depend on the model: what the best fixed answers get is the same for every variant.
RetrievalClaimMetric = Literal[
    "t2v/R@1", "t2v/R@5", "t2v/R@10", "v2t/R@1", "v2t/R@5", "v2t/R@10",
    "t2v-itc/R@1", "t2v-itc/R@5", "t2v-itc/R@10", "v2t-itc/R@1", "v2t-itc/R@5", "v2t-itc/R@10",
    "order_accuracy",
]  # fmt: skip
QuestionClaimMetric = Literal[
    "accuracy", "accuracy/what", "accuracy/who", "accuracy/how", "accuracy/when", "accuracy/where",
    "accuracy/other", "accuracy/order",
]  # fmt: skip
RetrievalMetric = Literal[
    RetrievalClaimMetric,
    "t2v/MdR", "t2v/MnR", "v2t/MdR", "v2t/MnR",
    "t2v-itc/MdR", "t2v-itc/MnR", "v2t-itc/MdR", "v2t-itc/MnR",
]  # fmt: skip
QuestionMetric = Literal[
    QuestionClaimMetric,
    "majority", "majority/what", "majority/who", "majority/how", "majority/when", "majority/where",
    "majority/other", "majority/order",
    "type-majority", "type-majority/what", "type-majority/who", "type-majority/how",
    "type-majority/when", "type-majority/where", "type-majority/other", "type-majority/order",
    "answerable",
]  # fmt: skip
ClaimMetric = Literal[RetrievalClaimMetric, QuestionClaimMetric]
TargetMetric = Literal[RetrievalMetric, QuestionMetric]


def task_of(dataset: str) -> Task:
    """What is done with a data set. ValueError for one that litevl does not know."""
    if dataset not in ALL_TASKS:
        raise ValueError(f"no data set {dataset!r}; known: {', '.join(ALL_TASKS)}")
    return ALL_TASKS[dataset]


def task_of_metric(metric: str) -> Task | None:
    """Which task a metric of `TargetMetric` is about; None for any other name."""
    if metric in get_args(RetrievalMetric):
        return "retrieval"
    return "question-answering" if metric in get_args(QuestionMetric) else None
