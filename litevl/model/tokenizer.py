"""BERT's WordPiece with BLIP's two extra tokens, [DEC] and [ENC]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from litevl.errors import DataError

if TYPE_CHECKING:
    from transformers import BertTokenizer

BERT_VOCABULARY = "google-bert/bert-base-uncased"


@dataclass(frozen=True)
class Tokens:
    """A batch of texts, padded to the longest."""

    input_ids: Tensor  # (B, W)
    attention_mask: Tensor  # (B, W), 1 where there is a word

    def select(self, index: Tensor) -> Tokens:
        """The texts at the given indices, in that order."""
        return Tokens(self.input_ids[index], self.attention_mask[index])

    def to(self, device: torch.device) -> Tokens:
        """The same batch on another device."""
        return Tokens(self.input_ids.to(device), self.attention_mask.to(device))


class Tokenizer:
    """Turns texts into word-piece ids; BLIP's [DEC] and [ENC] are the last two of the vocabulary."""

    def __init__(self, bert: BertTokenizer) -> None:
        bert.add_special_tokens({"bos_token": "[DEC]"})
        bert.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        self.bert = bert
        self.decode_id = int(bert.convert_tokens_to_ids("[DEC]"))
        self.encode_id = int(bert.convert_tokens_to_ids("[ENC]"))
        self.end_id = int(bert.convert_tokens_to_ids("[SEP]"))

    @classmethod
    def from_vocabulary(cls, path: Path) -> Tokenizer:
        """A tokenizer for a vocabulary file with one word piece per line."""
        from transformers import BertTokenizer

        return cls(BertTokenizer(vocab=str(path), do_lower_case=True))

    def __len__(self) -> int:
        """Size of the vocabulary with BLIP's two tokens."""
        return len(self.bert)

    def __call__(self, texts: list[str], max_tokens: int) -> Tokens:
        """Ids padded to the longest text; each starts with [CLS] and ends with [SEP].

        max_tokens counts these two. Raises DataError for texts that are empty or longer.
        """
        ids = self.bert(texts, add_special_tokens=True)["input_ids"]
        empty = [text for text, row in zip(texts, ids, strict=True) if len(row) <= 2]
        long = [text for text, row in zip(texts, ids, strict=True) if len(row) > max_tokens]
        problems = [f"  empty text: {text!r}" for text in empty[:3]]
        problems += [f"  more than {max_tokens} word pieces: {text!r}" for text in long[:3]]
        if problems:
            raise DataError(
                f"{len(empty) + len(long)} of {len(texts)} texts cannot be used\n"
                + "\n".join(problems)
                + "\n  Correct the annotation, or raise data.max_tokens in the spec."
            )
        longest = max(map(len, ids))
        padded = torch.zeros(len(ids), longest, dtype=torch.long)
        mask = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, words in enumerate(ids):
            padded[row, : len(words)] = torch.tensor(words)
            mask[row, : len(words)] = 1
        return Tokens(padded, mask)
