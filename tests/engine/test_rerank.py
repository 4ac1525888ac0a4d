"""Pairs of captions and clips through the cross-encoder, clip by clip."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    BRANCH,
    TOLERANCE,
    random_captions,
    random_frames,
    tiny_model,
    train_temporal_parts,
)

from litevl.engine import rerank
from litevl.engine.distributed import Group
from litevl.engine.rerank import Progress, pair_logits, passes, progress
from litevl.errors import RunError

CLOSE = TOLERANCE[torch.float32]
TEXTS = torch.tensor([0, 1, 2, 3, 4, 5, 0, 3, 5, 2, 1])
CLIPS = torch.tensor([4, 0, 1, 0, 0, 2, 0, 1, 0, 4, 3])


@pytest.fixture(scope="module")
def model():
    """A model whose logits tell pairs apart."""
    return train_temporal_parts(tiny_model(pooling_temperature=0.1, **BRANCH))


@pytest.fixture(scope="module")
def gallery(model):
    """Features of five clips and six captions."""
    with torch.no_grad():
        video = model.encode_video(random_frames(5))
        return video, model.encode_text(*random_captions([4, 7, 5, 9, 3, 6]))


@pytest.fixture(scope="module")
def expected(model, gallery):
    """The pairs' logits, one at a time: (P,)."""
    video, text = gallery
    with torch.no_grad():
        return torch.stack(
            [
                model.match(video.select(clip[None]), text.select(caption[None]))[0, 1]
                for caption, clip in zip(TEXTS, CLIPS, strict=True)
            ]
        )


@pytest.mark.parametrize("alone_from", [1, 2, 100])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_pairs_in_any_order_have_the_logits_of_each_alone(
    model, gallery, expected, monkeypatch, alone_from, at_once
):
    monkeypatch.setattr(rerank, "ALONE_FROM", alone_from)
    found = pair_logits(model, *gallery, TEXTS, CLIPS, at_once)
    assert (found - expected).abs().max() <= CLOSE
    assert expected.std() > 0.1


def test_no_pairs_give_no_logits(model, gallery):
    none = torch.zeros(0, dtype=torch.long)
    assert pair_logits(model, *gallery, none, none, 4).shape == (0,)


def test_captions_of_a_pass_have_no_more_padding_than_its_longest(model, gallery, monkeypatch):
    widths, encode = [], model.text_encoder.forward

    def measuring(input_ids, attention_mask, *arguments, **options):
        widths.append((input_ids.shape[1], int(attention_mask.sum(dim=1).max())))
        return encode(input_ids, attention_mask, *arguments, **options)

    monkeypatch.setattr(model.text_encoder, "forward", measuring)
    texts = torch.arange(6).repeat(2)
    clips = torch.zeros(12, dtype=torch.long)
    for alone_from, at_once in ((1, 2), (100, 3)):
        monkeypatch.setattr(rerank, "ALONE_FROM", alone_from)
        pair_logits(model, *gallery, texts, clips, at_once)
        pair_logits(model, *gallery, texts[:4], torch.arange(4), at_once)
    assert all(width == longest for width, longest in widths)
    assert len(set(widths)) > 3


@pytest.mark.parametrize(
    ("counts", "at_once", "expected"),
    [
        ([3, 3, 20, 1, 9, 2, 2], 6, [[0, 1], [2], [3], [4], [5, 6]]),
        ([7, 7, 7], 14, [[0, 1], [2]]),
        ([7], 2, [[0]]),
        ([], 4, []),
    ],
)
def test_clips_with_few_captions_share_passes(counts, at_once, expected):
    assert list(passes(counts, at_once)) == expected


def test_processes_share_the_passes(model, gallery, expected, monkeypatch):
    monkeypatch.setattr(Group, "sum", lambda _, values: values)
    groups = [Group(rank, 2, torch.device("cpu")) for rank in range(2)]
    shares = [pair_logits(model, *gallery, TEXTS, CLIPS, 3, group=group) for group in groups]
    assert all((share != 0).any() and (share == 0).any() for share in shares)
    assert (sum(shares) - expected).abs().max() <= CLOSE


# Broken off


@pytest.fixture
def broken_off(model, gallery, tmp_path, monkeypatch):
    """What a call left that was killed in its third pass."""
    monkeypatch.setattr(rerank, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(rerank, "ALONE_FROM", 1)
    real, calls = model.match_one, []

    def match_one(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(model, "match_one", match_one)
        with pytest.raises(KeyboardInterrupt):
            pair_logits(model, *gallery, TEXTS, CLIPS, 3, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    return tmp_path


def passes_of(model, gallery, folder, monkeypatch):
    """Logits of the pairs, and how many clips were looked at for them."""
    real, calls = model.match_one, []
    monkeypatch.setattr(model, "match_one", lambda *given: calls.append(given) or real(*given))
    return pair_logits(model, *gallery, TEXTS, CLIPS, 3, folder=folder), len(calls)


def test_broken_off_pairs_are_continued_bit_for_bit(model, gallery, broken_off, monkeypatch):
    whole = pair_logits(model, *gallery, TEXTS, CLIPS, 3)
    found, num_passes = passes_of(model, gallery, broken_off, monkeypatch)
    assert torch.equal(found, whole)
    assert num_passes == 5 - 2
    assert passes_of(model, gallery, broken_off, monkeypatch)[1] == 0, "done, and done again"


def test_other_pairs_in_between_leave_the_notes_alone(model, gallery, broken_off, monkeypatch):
    """A run scores several splits in turn; one begun again scores the first of them first."""
    pair_logits(model, *gallery, CLIPS % len(gallery[1].cls), CLIPS, 3, folder=broken_off)
    assert passes_of(model, gallery, broken_off, monkeypatch)[1] == 5 - 2


def test_pairs_of_another_model_are_begun_anew(model, gallery, broken_off, monkeypatch):
    with torch.no_grad():
        model.itm_head.bias.add_(1.0)
    try:
        assert passes_of(model, gallery, broken_off, monkeypatch)[1] == 5
    finally:
        with torch.no_grad():
            model.itm_head.bias.sub_(1.0)


@pytest.mark.parametrize("content", [b"", b"x" * 30, None])
def test_damaged_notes_are_begun_anew(model, gallery, broken_off, monkeypatch, content):
    (file,) = broken_off.iterdir()
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    assert passes_of(model, gallery, broken_off, monkeypatch)[1] == 5


def test_notes_decide_by_weights_features_and_pairs(model, gallery, tmp_path):
    video, text = gallery
    group = Group(0, 1, torch.device("cpu"))

    def key(*pairs, words=text):
        return progress(tmp_path, model, video, words, pairs, group)._file.name

    known = {key(TEXTS, CLIPS), key(CLIPS, TEXTS), key(TEXTS, CLIPS, words=text.select(TEXTS))}
    assert len(known) == 3
    assert key(TEXTS, CLIPS) in known


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_of_all_processes(model, gallery, value):
    video, text = gallery
    broken = replace(video, tokens=torch.full_like(video.tokens, value))
    with pytest.raises(RunError, match="matching logits hold NaN or infinity") as raised:
        pair_logits(model, broken, text, TEXTS, CLIPS, 3)
    assert raised.value.is_shared


def test_nothing_is_kept_without_a_folder(model, gallery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rerank, "SECONDS_BETWEEN_SAVES", 0.0)
    pair_logits(model, *gallery, TEXTS, CLIPS, 3)
    assert not list(tmp_path.iterdir())
    notes = Progress(None, 2)
    notes.add(torch.ones(2), torch.tensor([0, 1]))
    assert not notes.fill(torch.zeros(2), torch.tensor([0, 1]))
    assert np.isnan(notes._values).all()
