"""The declared list of answers that a model chooses from, and what it gives away.

By default it is made of the training questions' answers. A published list comes as a file; some
were built with the answers of other splits: ALPRO's and LAVIS's 2,423 answers of MSVD-QA hold 571
that no training question has.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litevl.data.annotations import ListedAnswers, is_whole
from litevl.download import leaves_folder

NUM_SHOWN = 5  # answers that only another split has


def declared_answers(
    root: Path, training: Sequence[str], count: int, file: str | None, problems: list[str]
) -> tuple[str, ...]:
    """The `count` answers to choose from, which never depend on the questions of another split.

    training: the answers of the training questions. Without a file, the most frequent of them make
        the list, of equally frequent ones those that come first.
    file: below root; a JSON list, a JSON object from answer to label (listed by label), or a text
        file with one answer per line, told apart by content. It has to hold exactly `count`
        answers.
    """
    if file is None:
        most = [answer for answer, _ in Counter(training).most_common(count)]
        if len(most) < count:
            problems.append(
                f"data.answers.count: {count}, but the training questions have {len(most)} answers"
            )
        return tuple(most)
    if leaves_folder(file):
        problems.append(f"data.answers.file: {file!r} is not below the data set's folder")
        return ()
    if not (root / file).is_file():
        problems.append(f"no {file}, the answer list (data.answers.file)")
        return ()
    try:
        entries = _entries((root / file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        problems.append(f"{file}: cannot be read as an answer list: {error}")
        return ()
    first: dict[str, int] = {}
    for place, answer in enumerate(entries, 1):
        if not isinstance(answer, str) or not answer.strip():
            problems.append(f"{file}: entry {place} is {answer!r}; should be an answer")
        elif first.setdefault(answer, place) != place:
            problems.append(f"{file}: entry {place} is {answer!r} again, as entry {first[answer]}")
    if len(entries) != count:
        problems.append(f"{file}: has {len(entries)} entries, data.answers.count is {count}")
    return tuple(first)


def _entries(text: str) -> Sequence[Any]:
    """The entries of an answer list; ValueError for JSON of another form."""
    if text.lstrip()[:1] not in ("[", "{"):
        return [line.strip() for line in text.splitlines()]
    # As pairs: a plain dict would keep the last of several entries for one answer, without a word.
    content = json.loads(text, object_pairs_hook=tuple)
    if isinstance(content, list):
        return content
    if not all(is_whole(label) for _, label in content):
        raise ValueError("should be a list, or an object from answer to label, a whole number")
    labels = [label for _, label in content]
    if len(set(labels)) < len(labels):
        raise ValueError("two answers have the same label")
    return [answer for answer, _ in sorted(content, key=lambda pair: pair[1])]


def account(
    answers: Sequence[str], file: str | None, given: Mapping[str, Sequence[str]]
) -> ListedAnswers:
    """Where a list comes from, and which of its answers no training question has.

    given: split -> the answers of its questions.
    """
    train, validation, test = ({*given[split]} for split in ("train", "validation", "test"))
    unseen = [answer for answer in answers if answer not in train]
    return ListedAnswers(
        file or "the training questions",
        len(answers),
        tuple(answer for answer in unseen if answer in validation),
        tuple(answer for answer in unseen if answer in test - validation),
    )


def described(listed: ListedAnswers) -> str:
    """The account as a note."""
    said = f"answer list: {listed.count} answers of {listed.source}"
    return "; ".join([said, *given_away(listed.only_validation, listed.only_test)])


def given_away(only_validation: Sequence[str], only_test: Sequence[str]) -> list[str]:
    """For each kind of listed answers that no training question has: how many, the first few."""
    said = []
    for split, answers in (("validation", only_validation), ("test", only_test)):
        more = f", ... {len(answers) - NUM_SHOWN} more" * (len(answers) > NUM_SHOWN)
        shown = ", ".join(answers[:NUM_SHOWN]) + more
        if answers:
            said.append(
                f"the list holds {len(answers)} answers that only {split} questions have ({shown})"
            )
    return said
