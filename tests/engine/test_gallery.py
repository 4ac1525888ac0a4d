"""Galleries larger than memory: features on the disk, the best clips block by block."""

import os
import resource

import pytest
import torch
from tiny import BRANCH, TOLERANCE, random_captions, random_frames, tiny_model, train_temporal_parts
from torch.nn import functional as F

from litevl.engine.distributed import ALONE, Group
from litevl.engine.gallery import StoredFeatures, earliest_top, search, stored, top_k
from litevl.engine.rerank import pair_logits
from litevl.errors import RunError
from litevl.model.litevl import similarities

CLOSE = TOLERANCE[torch.float32]
HALF_STEP = 2**-11  # relative error of half precision
NUM_CLIPS = 7


@pytest.fixture(scope="module")
def model():
    """A model whose scores tell clips apart."""
    return train_temporal_parts(tiny_model(pooling_temperature=0.1, **BRANCH))


@pytest.fixture(scope="module")
def video(model):
    """Features of seven clips."""
    with torch.no_grad():
        return model.encode_video(random_frames(NUM_CLIPS))


@pytest.fixture(scope="module")
def text(model):
    """Features of six captions."""
    with torch.no_grad():
        return model.encode_text(*random_captions([4, 7, 5, 9, 3, 6]))


def in_parts(video, parts):
    """The rows of each part, as an encoder yields them."""
    for rows in parts:
        yield rows, video.select(slice(rows.start, rows.stop))


PARTS = [range(3), range(3, 6), range(6, 7)]


@pytest.fixture
def on_disk(video, tmp_path):
    """The same features in a file."""
    return stored(in_parts(video, PARTS), NUM_CLIPS, tmp_path / "features.f16")


@pytest.mark.parametrize(
    "index",
    [slice(0, 7), slice(2, 3), slice(0, 0), torch.tensor([6, 0, 0, 3]), torch.zeros(0).long()],
)
def test_stored_features_are_those_in_memory_rounded_to_half_precision(video, on_disk, index):
    found, expected = on_disk.select(index), video.select(index)
    assert torch.equal(found.embedding, expected.embedding)
    assert found.tokens.dtype == torch.float32
    assert torch.equal(found.tokens, expected.tokens.half().float())


@pytest.mark.usefixtures("on_disk")
def test_file_has_two_bytes_for_each_number(video, tmp_path):
    assert (tmp_path / "features.f16").stat().st_size == 2 * video.tokens.numel()


def test_features_that_are_there_are_not_computed_again(video, on_disk, tmp_path):
    def never():
        pytest.fail("encoded again")
        yield

    again = stored(never(), NUM_CLIPS, tmp_path / "features.f16")
    assert torch.equal(again.select(slice(0, 7)).tokens, on_disk.select(slice(0, 7)).tokens)
    assert torch.equal(again.embedding, video.embedding)


def test_features_of_a_broken_off_encoding_do_not_count(video, tmp_path):
    def broken():
        yield from in_parts(video, PARTS[:2])
        raise KeyboardInterrupt

    file = tmp_path / "features.f16"
    with pytest.raises(KeyboardInterrupt):
        stored(broken(), NUM_CLIPS, file)
    found = stored(in_parts(video, PARTS), NUM_CLIPS, file)
    assert torch.equal(found.select(slice(0, 7)).tokens, video.tokens.half().float())


def test_processes_write_their_rows_into_one_file(video, tmp_path, monkeypatch):
    file, created = tmp_path / "features.f16", []
    monkeypatch.setattr(Group, "on_main", lambda _, do: created or created.append(do()))
    monkeypatch.setattr(Group, "each", lambda _, shape: [shape, (0, 0)])
    monkeypatch.setattr(Group, "assemble", lambda *_: video.embedding)
    for rank in (1, 0):
        group = Group(rank, 2, torch.device("cpu"))
        own = [rows for number, rows in enumerate(PARTS) if group.does(number)]
        found = stored(in_parts(video, own), NUM_CLIPS, file, group)
    assert torch.equal(found.select(slice(0, 7)).tokens, video.tokens.half().float())


def test_disk_that_cannot_be_written_is_told(video, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"features.f16: features cannot be written \(No space left"):
        stored(in_parts(video, PARTS), NUM_CLIPS, tmp_path / "features.f16")


def test_file_cut_short_by_a_limit_is_told(video, tmp_path):
    """A disk's quota, for one: what fits is written, and no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * video.tokens.numel() - 200, before[1]))
    try:
        with pytest.raises(RunError, match="features cannot be written"):
            stored(in_parts(video, PARTS), NUM_CLIPS, tmp_path / "features.f16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_features_missing_at_the_end_of_the_file_are_no_zeros(video, on_disk, tmp_path):
    file = tmp_path / "features.f16"
    file.write_bytes(file.read_bytes()[:-2])
    assert torch.equal(on_disk.select(slice(0, 6)).embedding, video.embedding[:6])
    with pytest.raises(RunError, match="ends within the features of clip 6 of 7"):
        on_disk.select(slice(5, 7))


# The best of a gallery


def embeddings(count, seed, width=16):
    """Random vectors of unit length."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator), dim=-1)


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
@pytest.mark.parametrize("k", [1, 5, 40, 300])
def test_top_k_by_blocks_is_a_sort_of_all(block, k):
    captions, gallery = embeddings(9, 0), embeddings(230, 1)
    places, values = top_k(captions, gallery, k, block)
    order = similarities(captions, gallery).sort(dim=1, descending=True, stable=True)
    assert torch.equal(places, order.indices[:, :k])
    assert torch.allclose(values, order.values[:, :k], atol=CLOSE)


@pytest.mark.parametrize("block", [2, 3, 10])
def test_equal_clips_come_in_their_order(block):
    gallery = torch.eye(2)[torch.tensor([1, 0, 0, 1, 0, 1, 0])]
    places, _ = top_k(torch.eye(2)[:1], gallery, 3, block)
    assert places.tolist() == [[1, 2, 4]]


def test_ties_at_the_end_of_what_is_kept_go_to_the_lower_column():
    similarity = torch.tensor([[0.1, 0.5, 0.5, 0.5], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0]])
    values, columns = earliest_top(similarity, 2)
    assert columns.tolist() == [[1, 2], [0, 1], [0, 1]]
    assert torch.equal(values, similarity.gather(1, columns))


def test_gallery_without_clips_has_no_best():
    places, values = top_k(embeddings(3, 0), torch.zeros(0, 16), 5)
    assert places.shape == values.shape == (3, 0)


@pytest.mark.parametrize("score", ["itm+itc", "itm-only", "itc-only"])
def test_search_ranks_the_most_similar_by_score(model, video, text, score):
    found = search(model, video, text, 3, score, at_once=4)
    similarity = similarities(text.embedding, video.embedding)
    for caption in range(6):
        chosen = similarity[caption].argsort(descending=True)[:3]
        itm = pair_logits(model, video, text, torch.full((3,), caption), chosen, 4)
        total = {
            "itm+itc": itm + similarity[caption, chosen],
            "itm-only": itm,
            "itc-only": similarity[caption, chosen],
        }[score]
        order = total.argsort(descending=True)
        assert torch.equal(found.clips[caption], chosen[order])
        assert (found.scores[caption] - total[order]).abs().max() <= CLOSE


def test_search_on_the_disk_differs_by_rounding_only(model, video, text, on_disk):
    assert isinstance(on_disk, StoredFeatures)
    one = search(model, video, text, 7, "itm-only", at_once=4)
    other = search(model, on_disk, text, 7, "itm-only", at_once=4, group=ALONE)
    by_clip = [found.scores.gather(1, found.clips.argsort(dim=1)) for found in (one, other)]
    gap = (by_clip[0] - by_clip[1]).abs().max()
    assert 0 < gap <= 50 * HALF_STEP
