"""Word pieces with BLIP's two extra tokens, and where the vocabulary comes from."""

import subprocess
import sys

import pytest
import torch

from litevl.errors import DataError, WeightsError
from litevl.model import tokenizer as module
from litevl.model.tokenizer import BERT_VOCABULARY, Tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball", "##s", "moves"]


def write_vocabulary(folder, pieces=PIECES):
    """A vocabulary file; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer with ten word pieces."""
    return Tokenizer.from_vocabulary(write_vocabulary(tmp_path_factory.mktemp("vocabulary")))


def test_dec_and_enc_are_the_last_two_of_the_vocabulary(tokenizer):
    assert len(tokenizer) == 12
    assert (tokenizer.decode_id, tokenizer.encode_id) == (10, 11)
    assert tokenizer.end_id == 3


def test_texts_start_with_cls_end_with_sep_and_are_padded_to_the_longest(tokenizer):
    tokens = tokenizer(["a red ball", "Balls"], max_tokens=8)
    assert tokens.input_ids.tolist() == [[2, 5, 6, 7, 3], [2, 7, 8, 3, 0]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]


def test_unknown_words_become_unk(tokenizer):
    assert tokenizer(["a zebra"], 8).input_ids.tolist() == [[2, 5, 1, 3]]


def test_text_as_long_as_allowed_is_kept_whole(tokenizer):
    assert tokenizer(["a red ball"], max_tokens=5).input_ids.shape == (1, 5)


def test_empty_and_long_texts_are_named_together_and_counted(tokenizer):
    with pytest.raises(DataError) as caught:
        tokenizer(["a ball", "", " \t", "a red ball moves"], max_tokens=5)
    message = str(caught.value)
    assert message.startswith("3 of 4 texts cannot be used")
    assert "empty text: ''" in message
    assert "more than 5 word pieces: 'a red ball moves'" in message
    assert "data.max_tokens" in message


def test_no_texts_give_no_tokens(tokenizer):
    assert tokenizer([], 5).input_ids.shape == (0, 0)


def test_select_and_to_keep_ids_and_mask_together(tokenizer):
    tokens = tokenizer(["a red ball", "balls"], 8)
    chosen = tokens.select(torch.tensor([1])).to(torch.device("cpu"))
    assert chosen.input_ids.tolist() == [[2, 7, 8, 3, 0]]
    assert chosen.attention_mask.tolist() == [[1, 1, 1, 1, 0]]


# Where the vocabulary comes from


def test_mini_blip_brings_its_own_vocabulary(tmp_path, monkeypatch):
    write_vocabulary(tmp_path)
    monkeypatch.setattr(module, "MINI_BLIP", tmp_path / "model.safetensors")
    assert len(Tokenizer.for_weights("mini-blip")) == 12


def test_shipped_vocabulary_lies_beside_the_shipped_weights():
    from litevl.assets import MINI_BLIP

    pieces = (MINI_BLIP.parent / "vocab.txt").read_text(encoding="utf-8").split()
    assert MINI_BLIP.is_file()
    assert len(Tokenizer.for_weights("mini-blip")) == len(pieces) + 2  # [DEC] and [ENC]


def test_vocabulary_beside_the_weights_is_taken(tmp_path, monkeypatch):
    write_vocabulary(tmp_path)
    monkeypatch.setattr(module, "bert_vocabulary", lambda _: pytest.fail("asked the hub"))
    assert len(Tokenizer.for_weights(str(tmp_path / "model.safetensors"))) == 12


@pytest.fixture
def hub(monkeypatch):
    """A hub without network; `hub.cache` is what it has, `hub.asked` what it was asked for."""

    class Hub:
        cache = None
        online = None
        asked = []  # noqa: RUF012

        def download(self, repo, name, local_files_only=False):
            self.asked.append((repo, name, local_files_only))
            found = self.cache if local_files_only else self.online
            if found is None:
                raise OSError("no connection\nmore lines")
            return str(found)

    hub = Hub()
    hub.asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    return hub


def test_other_weights_take_berts_vocabulary_from_the_cache_without_a_network(hub, tmp_path):
    hub.cache = write_vocabulary(tmp_path / "cache")
    assert len(Tokenizer.for_weights(str(tmp_path / "model.pth"))) == 12
    assert hub.asked == [(BERT_VOCABULARY, "vocab.txt", True)]


def test_berts_vocabulary_is_fetched_where_the_cache_lacks_it(hub, tmp_path):
    hub.online = write_vocabulary(tmp_path / "fetched")
    assert len(Tokenizer.for_weights(str(tmp_path / "model.pth"))) == 12
    assert [only_cache for _, _, only_cache in hub.asked] == [True, False]


def test_vocabulary_that_cannot_be_had_says_what_to_do(hub, tmp_path):
    with pytest.raises(WeightsError) as caught:
        Tokenizer.for_weights(str(tmp_path / "model.pth"))
    assert hub.asked
    assert BERT_VOCABULARY in str(caught.value)
    assert "(OSError: no connection)" in str(caught.value)
    assert f"put its vocab.txt into {tmp_path}" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_vocabulary_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"vocab.txt: the vocabulary cannot be read"):
        Tokenizer.from_vocabulary(path)


def test_file_that_is_no_bert_vocabulary_is_named(tmp_path):
    path = write_vocabulary(tmp_path, ["[PAD]", "[UNK]", "a", "red"])
    with pytest.raises(WeightsError, match=r"not a BERT vocabulary, it lacks \[CLS\], \[SEP\]"):
        Tokenizer.from_vocabulary(path)


def test_importing_the_tokenizer_does_not_import_transformers():
    code = "import sys, litevl.model.tokenizer; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
