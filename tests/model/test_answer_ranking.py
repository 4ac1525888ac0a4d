"""The ranking of listed answers and free answers, against loops over tokens; the answer list."""

import math

import pytest
import torch
from tiny import (
    DEC,
    FIRST_WORD,
    SEP,
    TOLERANCE,
    have_same_scores,
    largest_difference,
    random_frames,
)
from tiny_answers import (
    LIST_LENGTHS,
    answers,
    grounded_by_hand,
    naive_scores,
    qa_model,
    questions,
    ranked,
    unpadded,
)

from litevl.errors import DataError, RunError, SpecError
from litevl.model.question_answering import answer_tokens
from litevl.model.text import Source
from litevl.model.tokenizer import Tokenizer

CLOSE = TOLERANCE[torch.float32]


# Ranking


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_answer_log_likelihood_equals_a_naive_token_by_token_computation(smoothing):
    model, frames, listed = qa_model(), random_frames(3), answers(LIST_LENGTHS)
    naive = naive_scores(model, frames, questions(), listed, smoothing)
    indices, scores = ranked(naive, len(LIST_LENGTHS))
    ranking = model.rank_answers(frames, questions(), listed, len(LIST_LENGTHS), smoothing)
    assert torch.equal(ranking.indices, indices)
    assert largest_difference(ranking.scores, scores) <= CLOSE


@torch.no_grad()
def test_plain_log_likelihood_is_the_default():
    model, frames, listed = qa_model(), random_frames(3), answers(LIST_LENGTHS)
    default = model.rank_answers(frames, questions(), listed, 8)
    plain = model.rank_answers(frames, questions(), listed, 8, label_smoothing=0.0)
    smoothed = model.rank_answers(frames, questions(), listed, 8, label_smoothing=0.1)
    assert torch.equal(default.scores, plain.scores)
    assert not have_same_scores(default.scores, smoothed.scores)


@torch.no_grad()
def test_preselection_keeps_the_answers_with_the_likeliest_first_word():
    model, frames, listed = qa_model(), random_frames(3), answers(LIST_LENGTHS)
    naive = naive_scores(model, frames, questions(), listed)
    rankings = {k: model.rank_answers(frames, questions(), listed, k) for k in (1, 2, 4, 6)}
    for row in range(3):
        words = grounded_by_hand(model, frames[row : row + 1], unpadded(questions(), row))
        start = torch.tensor([[DEC]])
        first = model.text_decoder(start, torch.ones_like(start), Source(words))[0, 0].softmax(
            dim=-1
        )
        order = first[listed.input_ids[:, 1]].sort(descending=True, stable=True).indices
        for k, ranking in rankings.items():
            kept = sorted(order[:k].tolist())  # the list's order where first words are equal
            best = [kept[i] for i in naive[row, kept].argsort(descending=True, stable=True)]
            assert ranking.indices[row].tolist() == best
            assert largest_difference(ranking.scores[row], naive[row, best]) <= CLOSE


@torch.no_grad()
def test_preselection_can_lose_the_likeliest_answer():
    """So that the test above says something: here k = 1 and k = all disagree."""
    model, frames, listed = qa_model(), random_frames(3), answers(LIST_LENGTHS)
    few = model.rank_answers(frames, questions(), listed, 1)
    best = model.rank_answers(frames, questions(), listed, 8)
    assert not torch.equal(few.indices[:, 0], best.indices[:, 0])


@torch.no_grad()
def test_equal_answers_rank_in_the_order_of_the_list():
    model, frames = qa_model(), random_frames(3)
    listed = answers(LIST_LENGTHS).select(torch.tensor([4, 1, 4, 1, 1]))
    ranking = model.rank_answers(frames, questions(), listed, 5, pairs_at_once=1)
    for row in ranking.indices.tolist():
        assert [place for place in row if place in (1, 3, 4)] == [1, 3, 4]
        assert [place for place in row if place in (0, 2)] == [0, 2]
    kept = model.rank_answers(frames, questions(), listed.select(torch.tensor([1, 3, 4])), 2)
    assert kept.indices.tolist() == [[0, 1]] * 3


@torch.no_grad()
def test_equal_scores_rank_in_the_order_of_the_list(monkeypatch):
    model, listed = qa_model(), answers(LIST_LENGTHS)
    monkeypatch.setattr(model, "answer_losses", lambda asked, *_: torch.zeros(asked.num_texts))
    ranking = model.rank_answers(random_frames(3), questions(), listed, 8)
    assert ranking.indices.tolist() == [list(range(8))] * 3


@torch.no_grad()
@pytest.mark.parametrize("pairs_at_once", [1, 2, 5, 1000])
def test_pairs_at_once_bounds_memory_and_changes_nothing(pairs_at_once, monkeypatch):
    model, frames, listed = qa_model(), random_frames(3), answers(LIST_LENGTHS)
    whole = model.rank_answers(frames, questions(), listed, 5)
    sizes, scored = [], model.answer_losses

    def counted(asked, answered, smoothing):
        sizes.append(len(answered.input_ids))
        return scored(asked, answered, smoothing)

    monkeypatch.setattr(model, "answer_losses", counted)
    parts = model.rank_answers(frames, questions(), listed, 5, pairs_at_once=pairs_at_once)
    assert max(sizes) == min(pairs_at_once, 15)
    assert sum(sizes) == 15
    assert torch.equal(parts.indices, whole.indices)
    assert have_same_scores(parts.scores, whole.scores)


@torch.no_grad()
def test_logits_keep_full_precision_under_autocast():
    model, frames = qa_model(), random_frames(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.encode(frames, questions())
        logits = model.next_words(features, answers())
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).float().mean() > 0.9


@torch.no_grad()
@pytest.mark.parametrize("k", [0, 9])
def test_k_outside_the_list_is_named(k):
    with pytest.raises(SpecError, match=rf"k: expected 1 to 8, the answers listed, got {k}"):
        qa_model().rank_answers(random_frames(3), questions(), answers(LIST_LENGTHS), k)


@torch.no_grad()
def test_no_pairs_at_once_is_named():
    with pytest.raises(SpecError, match=r"pairs_at_once: .* from 1, got 0"):
        qa_model().rank_answers(
            random_frames(3), questions(), answers(LIST_LENGTHS), 2, pairs_at_once=0
        )


@torch.no_grad()
def test_score_that_is_no_number_is_not_ranked_first():
    model = qa_model()
    model.text_decoder.cls.predictions.bias[FIRST_WORD] = math.nan
    with pytest.raises(RunError, match="hold NaN or infinity"):
        model.rank_answers(random_frames(3), questions(), answers(LIST_LENGTHS), 2)


# Padding


@torch.no_grad()
def test_padding_does_not_change_generated_answers():
    model, frames = qa_model(), random_frames(3)
    together = model.generate(frames, questions("random", extra=3), SEP, max_tokens=8)
    for row in range(3):
        asked = unpadded(questions(), row)
        alone = model.generate(frames[row : row + 1], asked, SEP, max_tokens=8)
        assert torch.equal(alone.input_ids, unpadded(together, row).input_ids)


# Free answers


@torch.no_grad()
def test_generated_answer_takes_the_likeliest_word_each_time():
    model, frames = qa_model(), random_frames(3)
    written = model.generate(frames, questions(), SEP, max_tokens=6)
    assert written.input_ids.shape[1] <= 6
    for row in range(3):
        words = grounded_by_hand(model, frames[row : row + 1], unpadded(questions(), row))
        known = [DEC]
        while len(known) < 6 and known[-1] != SEP:
            ids = torch.tensor([known])
            known.append(
                int(model.text_decoder(ids, torch.ones_like(ids), Source(words))[0, -1].argmax())
            )
        assert unpadded(written, row).input_ids[0].tolist() == known


@torch.no_grad()
def test_generation_stops_where_an_answer_ends():
    model, frames = qa_model(), random_frames(3)
    free = model.generate(frames, questions(), end_id=-1, max_tokens=6)
    assert free.attention_mask.all()
    end = int(free.input_ids[0, 2])  # taken as the end, the first answer has three tokens
    written = model.generate(frames, questions(), end, max_tokens=6)
    ended = unpadded(written, 0).input_ids[0].tolist()
    assert ended == free.input_ids[0, : ended.index(end) + 1].tolist()
    assert not written.input_ids[0, len(ended) :].any()
    only = model.generate(frames[:1], unpadded(questions(), 0), end, max_tokens=6)
    assert only.input_ids.shape == (1, len(ended))


# Answer list


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer that knows a few words."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "red", "yes", "##s"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return Tokenizer.from_vocabulary(path)


def test_answer_list_becomes_tokens(tokenizer):
    listed = answer_tokens(["cat", "red dogs"], tokenizer, max_tokens=6)
    assert listed.input_ids.tolist() == [[2, 5, 3, 0, 0], [2, 7, 6, 9, 3]]
    assert listed.attention_mask.sum(dim=1).tolist() == [3, 5]


def test_all_answers_that_cannot_be_ranked_are_named(tokenizer):
    with pytest.raises(DataError) as caught:
        answer_tokens(["cat", "dog", "Cat", "red bus", "yes", "dog"], tokenizer, max_tokens=6)
    message = str(caught.value)
    assert "3 of 6 answers cannot be ranked" in message
    assert "'Cat': the same as 'cat', which comes earlier" in message
    assert "'dog': the same as 'dog'" in message
    assert "'red bus': has a word outside the vocabulary" in message
    assert "yes" not in message


@pytest.mark.parametrize("bad", ["", "cat dog cat dog"])
def test_empty_and_long_answers_are_named(tokenizer, bad):
    with pytest.raises(DataError, match=f"{bad!r}"):
        answer_tokens(["cat", bad], tokenizer, max_tokens=5)
