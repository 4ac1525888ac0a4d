"""Text-to-video search over one's own clips with a trained model.

    index = VideoIndex.build("clips", "reports/runs/<run id>/model")
    for hit in index.search("a red square moves left"):
        print(hit.score, hit.path)

An index is a folder: `index.json` says which model made it, each `*.safetensors` holds some clips'
features, in half precision. A clip is known by the hash of its bytes, so an indexing that was
broken off goes on where it stopped, and one over changed clips encodes those only.

Legend: G clips, S tokens of a clip, D width, E embedding width, T frames.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from litevl.data.annotations import VIDEO_SUFFIXES
from litevl.data.dataset import DECODE_SECONDS
from litevl.data.decode import Decoded, DecodeJob, decode_chosen
from litevl.data.fingerprint import file_hash, readable_hashes
from litevl.data.processes import Failure
from litevl.data.video import Frames
from litevl.engine.gallery import search
from litevl.errors import DataError, WeightsError
from litevl.locks import alone_with
from litevl.model.litevl import LiteVLForRetrieval, VideoFeatures
from litevl.record import usable_cores
from litevl.trained import MODEL_FILES, Trained, model_folder
from litevl.whole import write_bytes

logger = logging.getLogger(__name__)

FOLDER = ".litevl-index"  # in the folder of clips, unless another is named
INDEX_FILE = "index.json"
CLIPS_PER_PART = 64  # encoded between two looks at the disk: what a kill can cost
CLIPS_AT_ONCE = 16
CANDIDATES = 32  # that the cross-encoder looks at for a query
PAIRS_AT_ONCE = 128


@dataclass(frozen=True)
class Hit:
    """A clip that was found."""

    path: Path
    score: float
    rank: int  # from 1


class VideoIndex:
    """The clips of a folder as a model sees them, ready to be searched.

    embedding: of the clips, unit length, (G, E). problems: why clips could not be decoded, where
    the index was built just now. num_left_out: clips of the folder that are not in the index.
    """

    def __init__(
        self,
        trained: Trained,
        rows: Sequence[tuple[Path, Path, int]],
        embedding: Tensor,
        problems: Sequence[str] = (),
        num_left_out: int = 0,
    ) -> None:
        """rows: of each clip its path, the file that holds its tokens, its row in there."""
        self.trained, self.embedding, self.problems = trained, embedding, list(problems)
        self.num_left_out = num_left_out
        self._rows = rows

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._rows)

    @classmethod
    def build(
        cls,
        clips: str | Path,
        model: str | Path,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> VideoIndex:
        """The index of all video files below `clips`; its `problems` say which cannot be decoded.

        model: what a retrieval run left, `reports/runs/<id>/model`, or OWNER/NAME of the hub.
        folder: of the index, by default `.litevl-index` in `clips`. Clips already in it are not
        encoded again. Raises DataError where there are no clips, WeightsError where the model
        cannot be loaded, or another made the index in this folder.
        """
        root, found = Path(clips), model_folder(model)
        trained = load(found)
        place = Path(folder) if folder is not None else root / FOLDER
        hashes, unreadable = readable_hashes(video_files(root, place))
        with alone_with(place):
            named = str(found.resolve() if Path(model).exists() else model)
            expect_same_model(place, digest_of(found), named, root)
            known = read_rows(place)
            left = {key: path for path, key in sorted(hashes.items()) if key not in known}
            problems = [*map(str, unreadable.values()), *encode(trained, left, place, progress)]
        return cls._of(trained, root, place, problems)

    @classmethod
    def open(cls, folder: str | Path) -> VideoIndex:
        """An index that was built before; clips that are not in it are counted in a warning.

        Raises DataError where there is no index in the folder, or none of the clips is in it.
        """
        given = Path(folder)
        place = given if (given / INDEX_FILE).is_file() else given / FOLDER
        made = read_made(place)
        if made is None:
            raise DataError(
                f"{given}: holds no index\n  Make one: litevl index {given} --model MODEL"
            )
        found, root = model_folder(made.model), (place / made.clips).resolve()
        again = f"litevl index {root} --model {made.model}"
        if root / FOLDER != place.resolve():
            again += f" --index {place}"
        if digest_of(found) != made.digest:
            raise WeightsError(
                f"{made.model}: no longer the model that made the index in {place}\n"
                f"  Make it again: delete {place}, then {again}"
            )
        opened = cls._of(load(found), root, place)
        if not len(opened):
            raise DataError(
                f"{place}: none of the {opened.num_left_out} clips in {root} is in the index\n"
                f"  They are new, changed or cannot be decoded; to add them: {again}"
            )
        if opened.num_left_out:
            logger.warning(
                "%d clips are new, changed or cannot be decoded, and not searched; to add them: %s",
                opened.num_left_out,
                again,
            )
        return opened

    @classmethod
    def _of(
        cls, trained: Trained, root: Path, place: Path, problems: Sequence[str] = ()
    ) -> VideoIndex:
        """The index of the clips that are there now; those gone since are no part of it."""
        known, rows, embeddings = read_rows(place), [], []
        paths = video_files(root, place)
        hashes, _ = readable_hashes(paths)
        for path, key in sorted(hashes.items()):
            found = known.get(key)
            if found is not None:
                part, row, embedding = found
                rows.append((path, part, row))
                embeddings.append(embedding)
        width = trained.model.config.embed_width
        stacked = torch.stack(embeddings) if embeddings else torch.zeros(0, width)
        left_out = len(paths) - len(rows)
        return cls(trained, rows, stacked.to(trained.device), problems, left_out)

    def select(self, index: Tensor | slice) -> VideoFeatures:
        """The features of the clips at the given places, in that order."""
        rows = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        tokens = []
        for row in rows:
            _, part, place = self._rows[row]
            with safe_open(part, framework="pt") as file:
                tokens.append(file.get_slice("tokens")[place : place + 1])
        device = self.trained.device
        return VideoFeatures(torch.cat(tokens).to(device).float(), self.embedding[index])

    @torch.inference_mode()
    def search(self, text: str, top: int = 5, candidates: int = CANDIDATES) -> list[Hit]:
        """The clips that a text describes best, best first.

        candidates: clips of the highest similarity that the cross-encoder ranks. Raises DataError
        for a text that is empty, too long, or of which the model knows no word.
        """
        model, tokens = self.trained.model, self.trained.query(text)
        assert isinstance(model, LiteVLForRetrieval)
        query = model.encode_text(tokens.input_ids, tokens.attention_mask)
        score = self.trained.use.score or "itm+itc"
        found = search(model, self, query, max(top, candidates), score, PAIRS_AT_ONCE)
        places, scores = found.clips[0].tolist(), found.scores[0].tolist()
        best = zip(places[:top], scores[:top], strict=True)
        return [Hit(self._rows[row][0], value, rank) for rank, (row, value) in enumerate(best, 1)]

    def film_strip(self, hits: Sequence[Hit]) -> Frames:
        """The frames that the model saw of the clips found, a row each: uint8 (K * S, T * S, 3)."""
        rows = [np.concatenate([*self.trained.frames(hit.path)], axis=1) for hit in hits]
        return np.concatenate(rows)


def load(model: str | Path) -> Trained:
    """A model to search with. WeightsError for one that answers questions."""
    trained = Trained.load(model)
    if trained.use.task != "retrieval":
        raise WeightsError(f"{model}: answers questions; searching takes a retrieval model")
    return trained


def video_files(root: Path, index: Path) -> list[Path]:
    """All video files below a folder, by name. DataError where there are none."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and index not in path.parents
    )
    if not found:
        raise DataError(f"{root}: no video files; looked for {', '.join(VIDEO_SUFFIXES)}")
    return found


def digest_of(model: Path) -> str:
    """A hash of what decides a model's features, of the files in its folder."""
    text = "".join(file_hash(model / name) for name in MODEL_FILES)
    return hashlib.sha256(text.encode()).hexdigest()


class Made(BaseModel):
    """What `index.json` says: which clips the index is of, and which model made it.

    clips: their folder, as seen from the index where that lies in it: both may be moved together.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: str
    clips: str
    digest: str


def read_made(place: Path) -> Made | None:
    """What the index in a folder says of itself; None where there is none.

    DataError where the file that says so is damaged: nobody knows then whose features these are.
    """
    file = place / INDEX_FILE
    try:
        return Made.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError):
        raise DataError(
            f"{file}: damaged, or not an index's\n"
            f"  Delete {place}, then `litevl index` makes the index anew."
        ) from None


def expect_same_model(place: Path, digest: str, model: str, root: Path) -> None:
    """Note the model that makes an index; WeightsError where another one began it."""
    before = read_made(place)
    if before is not None and before.digest != digest:
        raise WeightsError(
            f"{place}: an index by another model, {before.model}\n"
            "  Delete it, or name another folder with --index."
        )
    clips, inside = root.resolve(), place.resolve()
    seen = os.path.relpath(clips, inside) if inside.is_relative_to(clips) else str(clips)
    made = Made(model=model, clips=seen, digest=digest)
    write_bytes(place / INDEX_FILE, made.model_dump_json(indent=1).encode() + b"\n")


def read_rows(place: Path) -> dict[str, tuple[Path, int, Tensor]]:
    """Clip hash -> the part that holds it, its row there, its embedding (E,)."""
    found: dict[str, tuple[Path, int, Tensor]] = {}
    for part in sorted(place.glob("*.safetensors")):
        try:
            with safe_open(part, framework="pt") as file:
                keys = json.loads((file.metadata() or {})["clips"])
                embedding = file.get_tensor("embedding").float()
        except (SafetensorError, OSError, ValueError, LookupError):
            continue  # written whole or not at all, so it is none of ours
        found |= {key: (part, row, embedding[row]) for row, key in enumerate(keys)}
    return found


def encode(trained: Trained, left: dict[str, Path], place: Path, progress: bool) -> list[str]:
    """Write the features of clips, given by hash, part by part; why some cannot be decoded."""
    model, problems = trained.model, list[str]()
    assert isinstance(model, LiteVLForRetrieval)
    jobs = [DecodeJob(key, path) for key, path in left.items()]
    size, workers = model.config.image_size_px, usable_cores()
    how = (size, trained.use.decoder, workers, DECODE_SECONDS, progress)
    for some in in_parts(decode_chosen(jobs, trained.places, *how), problems):
        tokens, embeddings = [], []
        for start in range(0, len(some), CLIPS_AT_ONCE):
            frames = np.stack([each.frames for _, each in some[start : start + CLIPS_AT_ONCE]])
            with torch.inference_mode():
                video = model.encode_video(trained.clips(frames))
            tokens.append(video.tokens.half().cpu())
            embeddings.append(video.embedding.float().cpu())
        keys = json.dumps([key for key, _ in some])
        parts = {"tokens": torch.cat(tokens), "embedding": torch.cat(embeddings)}
        name = hashlib.sha256(keys.encode()).hexdigest()[:20]
        write_bytes(place / f"{name}.safetensors", save(parts, {"clips": keys}))
    return sorted(problems)


def in_parts(
    decoded: Iterator[tuple[str, Decoded | Failure]], problems: list[str]
) -> Iterator[list[tuple[str, Decoded]]]:
    """Clips in groups, as they come; why others cannot be decoded goes into `problems`."""
    part: list[tuple[str, Decoded]] = []
    for key, answer in decoded:
        if isinstance(answer, Failure):
            problems.append(answer.reason)
            continue
        part.append((key, answer))
        if len(part) == CLIPS_PER_PART:
            yield part
            part = []
    if part:
        yield part
