"""BERT's WordPiece with BLIP's two extra tokens, [DEC] and [ENC].

Legend: B texts, W words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from litevl.assets import MINI_BLIP
from litevl.errors import DataError, WeightsError
from litevl.model.places import vocabulary_beside

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

    def cut(self) -> Tokens:
        """The same texts without the padding that none of them needs."""
        longest = int(self.attention_mask.sum(dim=1).max())
        return Tokens(self.input_ids[:, :longest], self.attention_mask[:, :longest])

    def to(self, device: torch.device) -> Tokens:
        """The same batch on another device."""
        return Tokens(self.input_ids.to(device), self.attention_mask.to(device))


class Tokenizer:
    """Turns texts into word-piece ids; [DEC] and [ENC] are the last two of the vocabulary."""

    def __init__(self, bert: BertTokenizer) -> None:
        bert.add_special_tokens({"bos_token": "[DEC]"})
        bert.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        self.bert = bert
        ids = bert.get_vocab()
        self.decode_id = ids["[DEC]"]
        self.encode_id = ids["[ENC]"]
        self.end_id = ids["[SEP]"]

    @classmethod
    def from_vocabulary(cls, path: Path) -> Tokenizer:
        """A tokenizer for a vocabulary file with one word piece per line.

        Raises WeightsError where there is no such file, or it lacks one of BERT's own tokens.
        """
        from transformers import BertTokenizer

        try:
            pieces = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path}: the vocabulary cannot be read ({error})") from None
        lacking = [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if piece not in pieces]
        if lacking:
            raise WeightsError(f"{path}: not a BERT vocabulary, it lacks {', '.join(lacking)}")
        return cls(BertTokenizer(vocab=str(path), do_lower_case=True))

    @classmethod
    def for_weights(cls, weights: str) -> Tokenizer:
        """The tokenizer that weights were trained with.

        weights: as a spec names them, see `places`. A vocab.txt beside the checkpoint, or in its
        folder, is taken, otherwise BERT's vocabulary from the hub's cache or, once, from the hub.
        Raises WeightsError where none can be had.
        """
        if weights == "mini-blip":
            return cls.from_vocabulary(MINI_BLIP.with_name("vocab.txt"))
        beside = vocabulary_beside(weights)
        return cls.from_vocabulary(beside if beside.is_file() else bert_vocabulary(beside.parent))

    def __len__(self) -> int:
        """Size of the vocabulary with BLIP's two tokens."""
        return len(self.bert)

    def words(self) -> list[str]:
        """The vocabulary that it was made from, word piece by word piece."""
        ids = self.bert.get_vocab()
        return sorted(ids, key=ids.__getitem__)[:-2]  # [DEC] and [ENC] are added again

    def __call__(self, texts: list[str], max_tokens: int) -> Tokens:
        """Ids padded to the longest text; each starts with [CLS] and ends with [SEP].

        max_tokens counts these two. Raises DataError for texts that are empty or longer.
        """
        ids = self._ids(texts)
        wrong = wrong_lengths(ids, max_tokens)
        if wrong:
            shown = [f"  {what}: {texts[place]!r}" for place, what in list(wrong.items())[:6]]
            raise DataError(
                f"{len(wrong)} of {len(texts)} texts cannot be used\n"
                + "\n".join(shown)
                + "\n  Correct the annotation, or raise data.max_tokens in the spec."
            )
        longest = max(map(len, ids), default=0)
        padded = torch.zeros(len(ids), longest, dtype=torch.long)
        mask = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, words in enumerate(ids):
            padded[row, : len(words)] = torch.tensor(words)
            mask[row, : len(words)] = 1
        return Tokens(padded, mask)

    def unusable(self, texts: list[str], max_tokens: int) -> dict[int, str]:
        """Place of each text that a call with these arguments would not take -> why."""
        return wrong_lengths(self._ids(texts), max_tokens)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.bert(texts, add_special_tokens=True)["input_ids"] if texts else []


def wrong_lengths(ids: list[list[int]], max_tokens: int) -> dict[int, str]:
    """Place of each text that is empty or longer than max_tokens -> which of the two."""
    return {
        place: "empty text" if len(row) <= 2 else f"more than {max_tokens} word pieces"
        for place, row in enumerate(ids)
        if not 2 < len(row) <= max_tokens
    }


def bert_vocabulary(folder: Path) -> Path:
    """BERT's vocab.txt in the hub's cache, fetched if it is not there yet.

    folder: where the error message tells the reader to put it.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(BERT_VOCABULARY, "vocab.txt", local_files_only=True))
    except OSError:  # not in the cache
        pass
    try:
        return Path(hf_hub_download(BERT_VOCABULARY, "vocab.txt"))
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"the vocabulary of {BERT_VOCABULARY} is not in the hub's cache and cannot be fetched "
            f"({error.__class__.__name__}: {reason})\n"
            f"  Connect to the network once, or put its vocab.txt into {folder}."
        ) from None
