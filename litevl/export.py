"""The two encoders of a retrieval model as programs of torch.export, which run without litevl.

    export("reports/runs/<run id>/model", "exported")

Legend: B clips or texts, T frames, S pixels, W words, D width, E embedding.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from litevl import __version__
from litevl.data.dataset import CLIP_MEAN, CLIP_STD
from litevl.errors import RunError, WeightsError
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.trained import WORDS_FILE, Trained, model_folder
from litevl.whole import whole_file, write_bytes

VIDEO_FILE, TEXT_FILE, ABOUT_FILE = "video_encoder.pt2", "text_encoder.pt2", "export.json"


class VideoEmbedding(nn.Module):
    """`encode_video(frames).embedding`, and no more of the model than that takes."""

    def __init__(self, model: LiteVLForRetrieval) -> None:
        super().__init__()
        self.encoder, self.proj = model.visual_encoder, model.vision_proj

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, S, S), normalised. Returns (B, E), unit length."""
        cls = self.encoder(frames, cls_only=True)[:, :, 0]  # (B, T, D)
        return F.normalize(self.proj(cls).mean(dim=1), dim=-1)


class TextEmbedding(nn.Module):
    """`encode_text(input_ids, attention_mask).embedding`, and no more than that takes."""

    def __init__(self, model: LiteVLForRetrieval) -> None:
        super().__init__()
        self.encoder, self.proj = deepcopy(model.text_encoder), model.text_proj
        for layer in self.encoder.encoder.layer:
            del layer.crossattention  # that looks at clips

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: (B, W), starting with [CLS]. Returns (B, E), unit length."""
        cls = self.encoder(input_ids, attention_mask, first_only=True)[:, 0]  # (B, D)
        return F.normalize(self.proj(cls), dim=-1)


def export(model: str | Path, folder: str | Path) -> list[Path]:
    """Write the two encoders, the vocabulary and what one has to know of them; returns the files.

    model: what a retrieval run left, `reports/runs/<run id>/model`, or OWNER/NAME of the hub.
    folder: for `video_encoder.pt2`, `text_encoder.pt2`, `vocab.txt` and, written last,
    `export.json`. Raises WeightsError where the model cannot be loaded or answers questions,
    RunError where the folder cannot be written.
    """
    place, found = Path(folder), model_folder(model)
    trained = Trained.load(found)
    ranker = trained.model
    if not isinstance(ranker, LiteVLForRetrieval):
        raise WeightsError(
            f"{model}: answers questions, and has no embeddings to export: its answers come from "
            "the clip and the question together\n  Export a retrieval run's model."
        )
    ranker = ranker.cpu()  # so that it is one program, wherever it is made
    write_program(place / VIDEO_FILE, video_program(ranker))
    write_program(place / TEXT_FILE, text_program(ranker))
    write_bytes(place / WORDS_FILE, (found / WORDS_FILE).read_bytes())
    about = json.dumps(described(trained, ranker.config), indent=1)
    write_bytes(place / ABOUT_FILE, f"{about}\n".encode())
    return [place / name for name in (VIDEO_FILE, TEXT_FILE, WORDS_FILE, ABOUT_FILE)]


def video_program(model: LiteVLForRetrieval) -> ExportedProgram:
    """The video encoder, for any number of clips."""
    config = model.config
    shape = (2, config.num_frames, 3, config.image_size_px, config.image_size_px)
    with torch.no_grad():
        return torch.export.export(
            VideoEmbedding(model).eval(),
            (torch.zeros(shape),),
            dynamic_shapes={"frames": {0: Dim("batch")}},
        )


def text_program(model: LiteVLForRetrieval) -> ExportedProgram:
    """The text encoder, for any number of texts of any length that it has positions for."""
    # Two tensors: of one given twice the program would make one input.
    ids, mask = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)
    axes = {0: Dim("batch"), 1: Dim("words", max=model.config.max_positions)}
    with torch.no_grad():
        return torch.export.export(
            TextEmbedding(model).eval(),
            (ids, mask),
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        )


def write_program(path: Path, program: ExportedProgram) -> None:
    """Write a program whole or not at all; RunError where that fails."""
    try:
        with whole_file(path) as file:
            torch.export.save(program, file)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error})\n"
            "  Free some space, or choose a folder you may write to."
        ) from error


def described(trained: Trained, config: LiteVLConfig) -> dict[str, Any]:
    """What a program needs to know that feeds the encoders: shapes, pixels, words."""
    size = config.image_size_px
    embedding = {
        "name": "embedding",
        "shape": ["batch", config.embed_width],
        "dtype": "float32",
        "unit_length": True,
    }
    words = {"shape": ["batch", "words"], "dtype": "int64"}
    tokenizer = trained.tokenizer.bert
    return {
        "litevl": __version__,
        "torch": torch.__version__,
        "similarity": "dot product of the two embeddings",
        "video_encoder": {
            "file": VIDEO_FILE,
            "inputs": [
                {
                    "name": "frames",
                    "shape": ["batch", config.num_frames, 3, size, size],
                    "dtype": "float32",
                }
            ],
            "outputs": [embedding],
        },
        "text_encoder": {
            "file": TEXT_FILE,
            "inputs": [{"name": name, **words} for name in ("input_ids", "attention_mask")],
            "outputs": [embedding],
        },
        "frames": {
            "sampler": trained.use.sampler,
            "channels": "RGB",
            "scaled_to": [0.0, 1.0],
            "mean": list(CLIP_MEAN),
            "std": list(CLIP_STD),
        },
        "tokenizer": {
            "kind": "BERT WordPiece, lower case",
            "file": WORDS_FILE,
            "start_id": tokenizer.cls_token_id,
            "end_id": tokenizer.sep_token_id,
            "padding_id": tokenizer.pad_token_id,
            "max_words": trained.use.max_tokens,
            "most_words_possible": config.max_positions,
        },
    }
