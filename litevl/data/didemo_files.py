"""What DiDeMo's recognised annotation files say: moments, ready-made paragraphs, lists of names.

The same video stands under two extensions in dozens of places ("x.mov" and "x.mp4"), and some
names end in a bare dot. So a clip is known by its stem, the name up to the last dot: who compares
whole names loses sentences without noticing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litevl.data.annotations import is_whole
from litevl.data.recognise import Found
from litevl.data.retrieval_kinds import DIDEMO_ID, clip_id
from litevl.tasks import SentenceOrder

Chunks = tuple[int, int]  # first and last


@dataclass(frozen=True)
class Moment:
    """One entry: a sentence about a clip, and where its annotators saw it happen."""

    name: str
    sentence: str
    chunks: tuple[Chunks, ...]

    @property
    def stem(self) -> str:
        """The clip's id."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def place(self) -> Chunks:
        """The chunks that most annotators gave; of several such, the ones given first."""
        return Counter(self.chunks).most_common(1)[0][0]


@dataclass(frozen=True)
class Paragraph:
    """All sentences about a clip, and the names it goes by in the file."""

    names: tuple[str, ...]
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences as one caption."""
        return " ".join(self.sentences)

    @property
    def words(self) -> list[str]:
        """The words in alphabetical order: the same in whatever order the sentences stand."""
        return sorted(self.text.split())


Paragraphs = dict[str, Paragraph]  # by stem


def read_moments(found: Found, by_id: dict[int, str], problems: list[str]) -> list[Moment]:
    """The moments of an original list, in its order, without those that have a problem.

    by_id: annotation id -> entry that has it; ids are unique over all three lists.
    """
    moments = []
    for row, entry in enumerate(found.file.content):
        where = found.file.place(row)
        number = entry.get("annotation_id") if isinstance(entry, dict) else None
        wrong = _wrong(entry)
        if is_whole(number) and by_id.setdefault(number, where) != where:
            wrong.append(f"{by_id[number]} has the same id")
        problems += [f"{where} (annotation_id {number}): {what}" for what in wrong]
        if not wrong:
            chunks = tuple((first, last) for first, last in entry["times"])
            moments.append(Moment(entry["video"], entry["description"], chunks))
    return moments


def _wrong(entry: Any) -> list[str]:
    """What is wrong with an entry, for itself."""
    if not isinstance(entry, dict):
        return [f"should be an object, is a {type(entry).__name__}"]
    video, sentence, times = (entry.get(key) for key in ("video", "description", "times"))
    num_chunks: Any = entry.get("num_segments")
    wrong = []
    if not is_whole(entry.get("annotation_id")):
        wrong.append("needs annotation_id, a whole number")
    if not isinstance(video, str) or not video.strip(". ") or "/" in video:
        wrong.append(f"video should be a file name, is {video!r}")
    if not isinstance(sentence, str):
        wrong.append("needs a description, a sentence")
    elif not sentence.strip():
        wrong.append("empty description")
    if not isinstance(times, list) or not times:
        wrong.append("has no times; needs first and last chunk for each annotator")
    elif not is_whole(num_chunks):
        wrong.append("needs num_segments, the number of chunks")
    else:
        wrong += [
            f"times[{place}] is {pair}; should be first and last chunk, from 0 to {num_chunks - 1}"
            for place, pair in enumerate(times)
            if not _is_span(pair, num_chunks)
        ]
    return wrong


def _is_span(pair: Any, num_chunks: int) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_whole, pair)):
        return False
    return bool(0 <= pair[0] <= pair[1] < num_chunks)


def paragraphs(moments: Sequence[Moment], order: SentenceOrder) -> Paragraphs:
    """The moments joined by stem, clips in the order of their first moments.

    order: "annotator-mode", by the chunks that most annotators gave, sentences of one moment as in
           the file: the paragraphs that Singularity and VindLU train and test with. "file", as the
           sentences stand in the file: CLIP4Clip's.
    """
    by_stem: dict[str, list[Moment]] = {}
    for moment in moments:
        by_stem.setdefault(moment.stem, []).append(moment)
    if order == "annotator-mode":
        by_stem = {
            stem: sorted(some, key=lambda moment: moment.place) for stem, some in by_stem.items()
        }
    return {
        stem: Paragraph(
            tuple(dict.fromkeys(moment.name for moment in some)),
            tuple(moment.sentence for moment in some),
        )
        for stem, some in by_stem.items()
    }


def read_paragraphs(found: Found, problems: list[str]) -> Paragraphs:
    """A ready-made list of clips with their paragraphs, each a text or a list of sentences.

    A clip that stands in several rows has the sentences of all of them.
    """
    read: Paragraphs = {}
    problems += found.file.faults
    for row, entry in enumerate(found.file.content):
        where = found.file.place(row)
        if not isinstance(entry, dict):
            problems.append(f"{where}: should be an object, is a {type(entry).__name__}")
            continue
        name, said = entry.get("video", entry.get("clip_name")), entry.get("caption")
        sentences = said if isinstance(said, list) and said else [said]
        if not isinstance(name, str) or not name.strip("./ "):
            problems.append(f"{where}: video should be a file name, is {name!r}")
        elif not all(isinstance(text, str) and text.strip() for text in sentences):
            problems.append(f"{where}: needs a caption, sentences that are not empty")
        else:
            stem = clip_id(name, DIDEMO_ID)
            before = read.get(stem, Paragraph((), ()))
            names = tuple(dict.fromkeys([*before.names, name]))
            read[stem] = Paragraph(names, (*before.sentences, *sentences))
    return read


def read_names(found: Found) -> list[str]:
    """The stems of a list of names, in its order."""
    return [clip_id(line, DIDEMO_ID) for line in found.file.content]
