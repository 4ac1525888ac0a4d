"""A trained model with what it takes to use it: its words, its frames, its answers.

A run leaves all of that in one folder: what `save_pretrained` writes, `vocab.txt` and `use.json`.
`litevl push` puts the same files on the hub, from where they are had by OWNER/NAME.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from litevl.data.dataset import normalise
from litevl.data.samplers import Indices, fixed_frames
from litevl.data.video import Frames, read_chosen
from litevl.download import hub_error
from litevl.engine.gallery import Score
from litevl.errors import DataError, WeightsError
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.question_answering import LiteVLForQuestionAnswering, answer_tokens
from litevl.model.tokenizer import Tokenizer, Tokens
from litevl.spec import EvalSampler, Resolved
from litevl.tasks import Task, task_of
from litevl.whole import write_bytes

USE_FILE, WORDS_FILE = "use.json", "vocab.txt"
MODEL_FILES = ("config.json", "model.safetensors", USE_FILE, WORDS_FILE)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # OWNER/NAME
Model = LiteVLForRetrieval | LiteVLForQuestionAnswering


class Use(BaseModel):
    """How a trained model is used, as it was evaluated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    dataset: str
    decoder: str
    sampler: EvalSampler
    max_tokens: int
    score: Score | None = None
    answers: tuple[str, ...] = ()
    max_answer_tokens: int = 0


@dataclass(frozen=True)
class Trained:
    """A model, and how to show it clips and texts."""

    model: Model
    tokenizer: Tokenizer
    use: Use

    @classmethod
    def load(cls, model: str | Path) -> Trained:
        """What a run left in `runs/<id>/model`, or what the hub has under OWNER/NAME.

        Raises WeightsError that says what the folder lacks or which file is wrong.
        """
        place = model_folder(model)
        use = read_use(place)
        kind = LiteVLForRetrieval if use.task == "retrieval" else LiteVLForQuestionAnswering
        loaded: Model = kind.from_pretrained(str(place))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = Tokenizer.from_vocabulary(place / WORDS_FILE)
        return cls(loaded.to(device).eval(), tokenizer, use)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def places(self) -> partial[Indices]:
        """From how many frames a clip has to those that the model looks at: (T,)."""
        num_frames = self.model.config.num_frames
        return partial(fixed_frames, sampler=self.use.sampler, num_wanted=num_frames)

    def frames(self, path: str | Path) -> Frames:
        """A clip's frames as they are shown to people: uint8 (T, S, S, 3). Raises DataError."""
        size = self.model.config.image_size_px
        return read_chosen(Path(path), self.places, size, self.use.decoder)[1]

    def clips(self, frames: Frames) -> Tensor:
        """Frames as the model takes them: (B, T, 3, S, S). frames: uint8 (B, T, S, S, 3)."""
        return normalise(torch.from_numpy(frames).to(self.device))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Texts as words (B, W); DataError for those that are empty or too long."""
        return self.tokenizer(list(texts), self.use.max_tokens).to(self.device)

    def query(self, text: str) -> Tokens:
        """What somebody asks as words (1, W); DataError also where the model knows none of it."""
        words = text.split()
        if words and len(self.unknown_words(text)) == len(words):
            raise DataError(f"{text!r}: the model knows none of these words")
        return self.tokens([text])

    def unknown_words(self, text: str) -> list[str]:
        """The words that the model's vocabulary cannot express."""
        tokenize, unknown = self.tokenizer.bert.tokenize, self.tokenizer.bert.unk_token
        return [word for word in text.split() if unknown in tokenize(word)]

    def answer_list(self, answers: Sequence[str]) -> Tokens:
        """Answers to rank, as words (G, W); DataError that names those that cannot be."""
        if not answers:
            raise DataError("no answers to rank: the list is empty")
        most = max(self.use.max_answer_tokens, 2)
        return answer_tokens(list(answers), self.tokenizer, most).to(self.device)


def model_folder(model: str | Path) -> Path:
    """The folder that holds a trained model's files: a run's, or the hub's cache for OWNER/NAME.

    A folder of that name comes first. Raises WeightsError where there is neither, or a file lacks.
    """
    place = Path(model)
    if not place.exists() and HUB_NAME.fullmatch(place.as_posix()):
        place = fetched(place.as_posix())
    missing = [name for name in MODEL_FILES if not (place / name).is_file()]
    if missing:
        raise WeightsError(
            f"{model}: lacks {', '.join(missing)}\n"
            "  Name the folder that a run leaves, reports/runs/<run id>/model, or a model that "
            "litevl pushed to the hub, OWNER/NAME"
        )
    return place


def fetched(name: str) -> Path:
    """The folder in the hub's cache with a model's files, fetched where they are not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(MODEL_FILES)))
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:
        told = hub_error(error, name, None)
        raise WeightsError(f"no folder here, and from the hub: {told}") from error


def read_use(place: Path) -> Use:
    """How the model in a folder is used; WeightsError, naming the first problem, for a bad file."""
    try:
        return Use.model_validate_json((place / USE_FILE).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise WeightsError(f"{place / USE_FILE}: {where}: {first['msg']}") from None


def use_of(settings: Resolved, answers: Sequence[str]) -> Use:
    """How a run's model is used."""
    data = settings.data
    return Use(
        task=task_of(data.dataset),
        dataset=data.dataset,
        decoder=settings.frames.decoder,
        sampler=settings.frames.eval_sampler,
        max_tokens=data.max_tokens,
        score=settings.evaluate.score,
        answers=tuple(answers),
        max_answer_tokens=data.max_answer_tokens or 0,
    )


def write_use(folder: Path, use: Use, tokenizer: Tokenizer) -> None:
    """Write what belongs to a model into its folder. RunError where that cannot be done."""
    write_bytes(folder / USE_FILE, use.model_dump_json(indent=1).encode() + b"\n")
    write_bytes(folder / WORDS_FILE, "".join(f"{word}\n" for word in tokenizer.words()).encode())
