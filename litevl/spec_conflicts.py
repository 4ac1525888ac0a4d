"""Settings that are right one by one and cannot be meant together.

Works on the dotted keys of one profile ("train.batch_size"), with the values that unsaid keys have.
"""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from litevl.download import leaves_folder
from litevl.errors import WeightsError
from litevl.model.places import weights_path
from litevl.tasks import ALL_TASKS, OWN_TASKS, TASKS, Task

Problem = tuple[str, str]  # where (dotted key), what
LONGEST_NAME, LONGEST_PATH = 255, 3000  # bytes; Linux has 4096, of which some are for files below

RETRIEVAL_SETS = tuple(name for name, task in ALL_TASKS.items() if task == "retrieval")
QUESTION_SETS = tuple(name for name, task in ALL_TASKS.items() if task == "question-answering")
# Keys and tables that some data sets need and the others must not have; those of a world only
# where there is one.
NEEDED_BY: dict[str, tuple[str, ...]] = {
    "data.train_split": ("msrvtt",),
    "data.annotations": tuple(OWN_TASKS),
    "data.max_answer_tokens": QUESTION_SETS,
    "data.answers": QUESTION_SETS,
    "data.expected.train_questions": QUESTION_SETS,
    "data.expected.validation_questions": QUESTION_SETS,
    "data.expected.test_questions": QUESTION_SETS,
    "data.world.captions_per_clip": ("msrvtt",),
    "data.world.questions_per_clip": tuple(name for name in QUESTION_SETS if name in TASKS),
    "evaluate.score": RETRIEVAL_SETS,
}
# Keys that the others must not have, and these need not.
ONLY_FOR: dict[str, tuple[str, ...]] = {
    "data.leave_out": ("didemo",),
    "data.sentence_order": ("didemo",),
}


def has_own_data(document: Mapping[str, Any]) -> bool:
    """Whether a file is about one's own clips, wherever it says so."""
    profiles = document.get("profile")
    layers = [document, *(profiles.values() if isinstance(profiles, dict) else ())]
    tables = [layer.get("data") for layer in layers if isinstance(layer, Mapping)]
    names = [table.get("dataset") for table in tables if isinstance(table, dict)]
    return any(name in tuple(OWN_TASKS) for name in names)


def own_problems(document: Mapping[str, Any]) -> list[Problem]:
    """What only the spec of a published data set has, and that of own data has too."""
    reasons = {
        "profile": "own data have one scale; put its keys into the tables above",
        "start": "is for published rows; own data start from model.weights",
        "target": "is for published numbers; own data have none",
        "published": "is for published numbers; own data have none",
    }
    return [(key, what) for key, what in reasons.items() if key in document]


def is_under(key: str, tables: Iterable[str]) -> bool:
    """Whether a dotted key is one of `tables` or lies inside one."""
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def conflicts(values: Mapping[str, Any], profile: str) -> list[Problem]:
    """Combinations that cannot be meant, in one profile's values (dotted keys).

    A key that is missing or has a wrong value is absent from `values`; what needs it is skipped.
    """
    found = data_conflicts(values, profile)
    if values.get("model.weights") == "mini-blip" and profile == "paper":
        found.append(
            ("model.weights", '"mini-blip" has seen drawings only; name a BLIP checkpoint')
        )
    found += frames_conflicts(values)
    found += model_conflicts(values)
    found += train_conflicts(values)
    rerank_k = values.get("evaluate.rerank_k", 0)
    holder, key = {
        "question-answering": ("answer list", "data.answers.count"),
        "retrieval": ("gallery", "data.expected.test_clips"),
    }[task_in(values) or "retrieval"]
    if rerank_k > values.get(key, rerank_k):
        what = f"{rerank_k} is more than the {holder} holds ({values[key]})"
        found.append(("evaluate.rerank_k", what))
    return found


def task_in(values: Mapping[str, Any]) -> Task | None:
    """What the values' data set is for; None where they name none."""
    return ALL_TASKS.get(values.get("data.dataset", ""))


def data_conflicts(values: Mapping[str, Any], profile: str) -> list[Problem]:
    """Keys of other data sets, clips left out twice, files outside the root, worlds in paper."""
    found: list[Problem] = []
    dataset = values.get("data.dataset")
    for owned, owners in (NEEDED_BY | ONLY_FOR).items():
        is_there = any(is_under(key, [owned]) and values[key] not in ((), []) for key in values)
        if dataset is not None and dataset not in owners and is_there:
            names = " and ".join(f'"{owner}"' for owner in owners)
            found.append((owned, f'only for {names}; the data set is "{dataset}"'))
    left_out = values.get("data.leave_out", ())
    if len(set(left_out)) < len(left_out):
        twice = sorted({clip for clip in left_out if list(left_out).count(clip) > 1})
        found.append(("data.leave_out", f"named twice: {', '.join(twice)}"))
    for key in ("data.root", "data.annotations", "model.weights"):
        unusable = unusable_path(values.get(key, ""))
        found += [(key, unusable)] if unusable else []
    answers = values.get("data.answers.file")
    if answers is not None and leaves_folder(answers):
        what = f"{json.dumps(answers)} is not below data.root; copy it there"
        found.append(("data.answers.file", what))
    if profile != "mini" and any(is_under(key, ["data.world"]) for key in values):
        place = "drawn clips belong in [profile.mini.data.world]"
        found.append(("data.world", place if profile == "paper" else "own clips are not drawn"))
    return found


def unusable_path(text: str) -> str | None:
    """Why no file system has such a path, or None."""
    if "\0" in text:
        return "holds a NUL, which no path may"
    longest = max(len(os.fsencode(part)) for part in text.split("/"))
    if longest > LONGEST_NAME or len(os.fsencode(text)) > LONGEST_PATH:
        return f"too long for a path: {len(text)} letters, the longest name {longest} bytes"
    return None


def needed_keys(values: Mapping[str, Any], bad: set[str]) -> list[Problem]:
    """Keys that are missing because of the data set; `bad` ones are told already."""
    told = values.keys() | bad

    def is_there(table: str) -> bool:
        return any(is_under(key, [table]) for key in told)

    dataset, found = values.get("data.dataset"), list[Problem]()
    for key, owners in NEEDED_BY.items():
        table = key.rpartition(".")[0]  # one that is missing altogether is told as such
        if dataset in owners and is_there(table) and not is_there(key) and not is_under(key, bad):
            found.append((key, f'missing; "{dataset}" needs it'))
    return found


def frames_conflicts(values: Mapping[str, Any]) -> list[Problem]:
    """Caches that would have to hold every frame, and choices that nobody has."""
    get, key = values.get, "frames.choices_per_segment"
    is_random = get("frames.train_sampler") == "segment-random"
    if get("frames.train_sampler") is None:
        return []
    if get(key) is not None and not is_random:
        what = f'"{get("frames.train_sampler")}" chooses nothing; only for "segment-random"'
        return [(key, what)]
    if get("frames.cache") == "sampled" and is_random and get(key) is None:
        what = '"sampled" would keep every frame, any of which may be drawn'
        return [("frames.cache", f"{what}; set frames.choices_per_segment")]
    return []


def model_conflicts(values: Mapping[str, Any]) -> list[Problem]:
    """Parts of the model that act on a part which is off, and weights that have no such name."""
    get, found = values.get, list[Problem]()
    try:
        weights_path(get("model.weights", "mini-blip"))
    except WeightsError as error:
        found.append(("model.weights", str(error).partition("\n")[0]))
    if get("model.temporal_attention") is False:
        for key in ("model.scaling", "model.time_embedding"):
            if get(key, "none") != "none":
                what = f'"{get(key)}" acts on temporal attention, which is off; set it to "none"'
                found.append((key, what))
    if get("model.time_embedding") == "stream" and get("model.time_embedding_scale", 0) != 0:
        what = '"stream" starts at 0, so that step 0 equals BLIP; use 0.0, or "branch"'
        found.append(("model.time_embedding_scale", what))
    return found


def train_conflicts(values: Mapping[str, Any]) -> list[Problem]:
    """Batches, queues and choices of checkpoint that the data do not allow."""
    get, found = values.get, list[Problem]()
    batch, asks = get("train.batch_size"), task_in(values) == "question-answering"
    if batch is not None:
        unit = "questions" if asks else "clips"
        num_train = get(f"data.expected.train_{unit}", batch)
        if batch > num_train:
            what = f"{batch} is more than the training split holds ({num_train} {unit})"
            found.append(("train.batch_size", what))
        if get("train.group_by_source") and batch % 2 and not asks:
            what = f"{batch} is odd; group_by_source fills a batch with pairs of clips"
            found.append(("train.batch_size", what))
    negatives = get("train.hard_negatives") or 1
    if negatives > 1 and asks:
        what = "question answering has no negatives; leave it out"
        found.append(("train.hard_negatives", what))
    elif batch is not None and negatives >= batch > 1:
        what = f"{negatives} are more than the other clips of a batch ({batch - 1})"
        found.append(("train.hard_negatives", what))
    if get("train.momentum_encoder") and asks:
        what = "question answering learns from answers alone, nothing is queued; set it to false"
        found.append(("train.momentum_encoder", what))
    elif get("train.momentum_encoder") and batch is not None:
        queue = get("train.queue_size", batch)
        if queue == 0 or queue % batch:
            what = f"{queue} is not a positive multiple of train.batch_size ({batch})"
            found.append(("train.queue_size", what))
    seeds = get("train.seeds", [])
    if len(set(seeds)) < len(seeds):
        found.append(("train.seeds", "the same seed twice is one run, not two"))
    lacking = [u for u in ("clips", "questions") if get(f"data.expected.validation_{u}") == 0]
    if get("train.select") == "best-validation" and lacking:
        what = (
            f'"best-validation" needs validation {lacking[0]}, and the split has none; use "last"'
        )
        found.append(("train.select", what))
    return found
