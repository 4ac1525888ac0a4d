"""Question answering: the loss and the ranking against loops over tokens, padding, weights."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from blip_oracle import VISION_NAMES
from safetensors.torch import load_file, save_file
from tiny import (
    BRANCH,
    CLS,
    DEC,
    ENC,
    FIRST_WORD,
    SEP,
    TOLERANCE,
    WITHOUT_TEMPORAL,
    fill,
    have_same_scores,
    largest_difference,
    random_captions,
    random_frames,
    tiny_config,
    tiny_model,
    train_temporal_parts,
)
from transformers import BlipConfig, BlipForQuestionAnswering

from litevl import LiteVLForQuestionAnswering
from litevl.errors import DataError, RunError, ShapeError, SpecError, WeightsError
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures
from litevl.model.question_answering import answer_tokens
from litevl.model.tokenizer import Tokenizer, Tokens
from litevl.model.weights import NEW_BY_DESIGN, load_blip, save_blip

CLOSE = TOLERANCE[torch.float32]
QUESTION_LENGTHS = [6, 9, 4]
ANSWER_LENGTHS = [3, 5, 4]
LIST_LENGTHS = [4, 3, 6, 5, 3, 4, 7, 3]
HEAD = "text_decoder.cls.predictions"


def qa_model(seed=0, **options):
    """A model with random weights everywhere, pooling sharp enough to tell frames apart."""
    model = LiteVLForQuestionAnswering(
        tiny_config(**{"pooling_temperature": 0.1, **BRANCH, **options})
    )
    fill(model, seed)
    return model.eval()


def questions(padding=None, extra=0):
    """Three questions of different length, padded to the longest or by `extra` more."""
    return pad(Tokens(*random_captions(QUESTION_LENGTHS, padding=padding)), extra)


def answers(lengths=ANSWER_LENGTHS, padding=None, extra=0):
    """Answers of the given lengths; the first three of a list begin with the same word."""
    ids, mask = random_captions(lengths, seed=7, padding=padding)
    if len(lengths) > 3:
        ids[:3, 1] = FIRST_WORD
    return pad(Tokens(ids, mask), extra)


def pad(tokens, extra):
    """The same texts with more padding, which holds a word's id."""
    rest = torch.full((len(tokens.input_ids), extra), FIRST_WORD + 1)
    return Tokens(
        torch.cat([tokens.input_ids, rest], dim=1),
        torch.cat([tokens.attention_mask, torch.zeros_like(rest)], dim=1),
    )


def unpadded(tokens, row):
    """One text (1, W) without its padding."""
    length = int(tokens.attention_mask[row].sum())
    return Tokens(tokens.input_ids[row : row + 1, :length], torch.ones(1, length).long())


def grounded_by_hand(model, frames, question):
    """One question's words (1, W, Dt), grounded in its clip as the retrieval model grounds."""
    retrieval = LiteVLForRetrieval(model.config).eval()
    retrieval.load_state_dict(model.state_dict(), strict=False)
    text = retrieval.encode_text(question.input_ids, question.attention_mask)
    source = retrieval.condition(retrieval.encode_video(frames), text)
    ids = question.input_ids.clone()
    ids[:, 0] = ENC
    return model.text_encoder(ids, question.attention_mask, source)


@torch.no_grad()
def naive_score(model, words, answer, smoothing=0.0):
    """An answer's log-likelihood, one token after the other, from everything before it."""
    wanted = answer.input_ids[0].tolist()
    known, total = [DEC], 0.0
    for token in wanted[1:]:
        ids = torch.tensor([known])
        log_p = model.text_decoder(ids, torch.ones_like(ids), words)[0, -1].log_softmax(dim=-1)
        total += ((1 - smoothing) * log_p[token] + smoothing * log_p.mean()).item()
        known.append(token)
    return total


@torch.no_grad()
def naive_scores(model, frames, asked, listed, smoothing=0.0):
    """Scores of all answers for all questions (B, G), pair by pair."""
    rows = []
    for row in range(len(frames)):
        words = grounded_by_hand(model, frames[row : row + 1], unpadded(asked, row))
        rows.append(
            [
                naive_score(model, words, unpadded(listed, place), smoothing)
                for place in range(len(listed.input_ids))
            ]
        )
    return torch.tensor(rows)


def ranked(scores, k):
    """Scores (B, G) as a ranking: places and scores, best first, (B, K) each."""
    best = scores.sort(dim=1, descending=True, stable=True)
    return best.indices[:, :k], best.values[:, :k]


# Loss


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["text", "concat"])
def test_loss_equals_a_loop_over_tokens(pooling):
    model, frames = qa_model(pooling=pooling), random_frames(3)
    naive = naive_scores(model, frames, questions(), answers(), smoothing=0.1)
    loss = model.loss(frames, questions(), answers())
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-naive.diagonal().sum().item() / 3, abs=CLOSE)


@torch.no_grad()
def test_several_weighted_answers_count_for_their_question():
    model, frames = qa_model(), random_frames(3)
    listed = answers(LIST_LENGTHS[:5])
    index, weights = torch.tensor([0, 2, 2, 1, 0]), torch.tensor([0.5, 1.0, 0.25, 2.0, 0.0])
    naive = naive_scores(model, frames, questions(), listed, smoothing=0.1)
    wanted = -(naive[index, torch.arange(5)] * weights).sum().item() / 3  # by questions, not by 5
    loss = model.loss(frames, questions(), listed, index, weights)
    assert loss.item() == pytest.approx(wanted, abs=CLOSE)


@torch.no_grad()
def test_answers_may_start_with_either_token():
    model, frames = qa_model(), random_frames(3)
    started = answers()
    assert started.input_ids[0, 0] == CLS
    before = started.input_ids.clone()
    loss = model.loss(frames, questions(), started)
    assert torch.equal(started.input_ids, before)
    started.input_ids[:, 0] = DEC
    assert torch.equal(loss, model.loss(frames, questions(), started))


def test_all_parts_learn_from_the_loss():
    model = qa_model(pooling_space="projected")
    model.loss(random_frames(3), questions(), answers()).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Key biases cancel in the softmax over what they shift alike.
    assert not {name for name in silent if not name.endswith("key.bias")}


# Padding


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["text", "concat"])
@pytest.mark.parametrize("padding", [None, "random"])
def test_padding_does_not_change_the_loss(pooling, padding):
    model, frames = qa_model(pooling=pooling), random_frames(3)
    alone = sum(
        model.loss(frames[row : row + 1], unpadded(questions(), row), unpadded(answers(), row))
        for row in range(3)
    )
    padded = model.loss(frames, questions(padding, extra=3), answers(padding=padding, extra=5))
    assert have_same_scores(padded, alone / 3)


@torch.no_grad()
@pytest.mark.parametrize("padding", [None, "random"])
def test_padding_does_not_change_the_ranking(padding):
    model, frames = qa_model(), random_frames(3)
    listed = answers(LIST_LENGTHS, padding=padding, extra=4)
    padded = model.rank_answers(frames, questions(padding, extra=3), listed, k=5)
    for row in range(3):
        one = frames[row : row + 1]
        alone = model.rank_answers(one, unpadded(questions(), row), answers(LIST_LENGTHS), k=5)
        assert torch.equal(alone.indices[0], padded.indices[row])
        assert have_same_scores(alone.scores[0], padded.scores[row])


@torch.no_grad()
def test_padding_does_not_change_generated_answers():
    model, frames = qa_model(), random_frames(3)
    together = model.generate(frames, questions("random", extra=3), SEP, max_tokens=8)
    for row in range(3):
        asked = unpadded(questions(), row)
        alone = model.generate(frames[row : row + 1], asked, SEP, max_tokens=8)
        assert torch.equal(alone.input_ids, unpadded(together, row).input_ids)


# Ranking


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ranking_all_answers_equals_scoring_all_answers(smoothing):
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
        first = model.text_decoder(start, torch.ones_like(start), words)[0, 0].softmax(dim=-1)
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
    monkeypatch.setattr(model, "answer_losses", lambda asked, *_: torch.zeros(len(asked.words)))
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
            known.append(int(model.text_decoder(ids, torch.ones_like(ids), words)[0, -1].argmax()))
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


# What the question sees


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["text", "mean", "concat", "text-temporal", "text-spatial"])
@pytest.mark.parametrize("space", ["hidden", "projected"])
def test_clip_is_conditioned_as_in_retrieval(pooling, space):
    options = {"pooling": pooling, "pooling_space": space, "pooling_temperature": 0.1}
    retrieval = train_temporal_parts(tiny_model(**BRANCH, **options))
    model = qa_model(**options)
    model.load_state_dict(retrieval.state_dict(), strict=False)
    tokens = model.visual_encoder(random_frames(3))
    query = torch.randn(3, 24, generator=torch.Generator().manual_seed(5))
    nothing = torch.zeros(3, 1)
    wanted = retrieval.condition(
        VideoFeatures(tokens, nothing), TextFeatures(query, nothing, nothing, nothing)
    )
    assert torch.equal(model.condition(tokens, query), wanted)


# Parity with transformers, where padding plays no part


def oracle(model):
    """BlipForQuestionAnswering with the BLIP part of our model's weights, label smoothing 0.1."""
    config = model.config
    blip = BlipForQuestionAnswering(
        BlipConfig(
            vision_config={
                "hidden_size": config.vision_width,
                "intermediate_size": 4 * config.vision_width,
                "num_hidden_layers": config.vision_depth,
                "num_attention_heads": config.vision_heads,
                "image_size": config.image_size_px,
                "patch_size": config.patch_size_px,
                "layer_norm_eps": 1e-6,
            },
            text_config={
                "vocab_size": config.vocab_size,
                "hidden_size": config.text_width,
                "encoder_hidden_size": config.vision_width,
                "intermediate_size": config.text_mlp_width,
                "num_hidden_layers": config.text_depth,
                "num_attention_heads": config.text_heads,
                "max_position_embeddings": config.max_positions,
                "layer_norm_eps": 1e-12,
                "label_smoothing": 0.1,
            },
        )
    )
    state = checkpoint(model)
    for name in [name for name in state if name.startswith("visual_encoder")]:
        theirs = name
        for ours, replacement in VISION_NAMES:
            theirs = re.sub(ours, replacement, theirs)
        state[theirs] = state.pop(name)
    blip.load_state_dict(state)
    return blip.eval()


@torch.no_grad()
def oracle_loss(blip, image, question, answer):
    """transformers' loss of one question (1, W), with [ENC] and [DEC] put in by hand."""
    asked, given = question.input_ids.clone(), answer.input_ids.clone()
    asked[:, 0], given[:, 0] = ENC, DEC
    labels = given.masked_fill(answer.attention_mask == 0, -100)
    return blip(
        input_ids=asked,
        attention_mask=question.attention_mask,
        pixel_values=image,
        decoder_input_ids=given,
        decoder_attention_mask=answer.attention_mask,
        labels=labels,
    ).loss


@torch.no_grad()
def test_loss_on_a_still_equals_transformers_without_padding():
    model = qa_model(**BLIP_ALONE)
    blip, images = oracle(model), random_frames(3, num_frames=1)
    for row, length in enumerate(ANSWER_LENGTHS):
        asked, given = unpadded(questions(), row), unpadded(answers(), row)
        ours = model.loss(images[row : row + 1], asked, given)
        theirs = oracle_loss(blip, images[row], asked, given) * (length - 1)  # its mean, our sum
        assert largest_difference(ours, theirs) <= CLOSE


@torch.no_grad()
def test_transformers_loss_changes_with_padding_and_ours_does_not():
    model = qa_model(**BLIP_ALONE)
    blip, image = oracle(model), random_frames(1, num_frames=1)
    asked, given = unpadded(questions(), 0), unpadded(answers(), 0)
    ours = [model.loss(image, each, given) for each in (asked, pad(asked, 4))]
    theirs = [oracle_loss(blip, image[0], each, given) for each in (asked, pad(asked, 4))]
    assert have_same_scores(*ours)
    assert largest_difference(*theirs) > 0.01


# Shapes


def wrong(**changes):
    """Arguments of `loss` for three questions, with the given ones in their place."""
    arguments = {"frames": random_frames(3), "questions": questions(), "answers": answers()}
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": torch.zeros(2, 4, 3, 24, 24)}, r"questions.input_ids .*B=2, got \(3, 9\)"),
        ({"frames": torch.zeros(3, 5, 3, 24, 24)}, r"frames .*T=4, got \(3, 5, 3, 24, 24\)"),
        ({"frames": torch.zeros(3, 3, 24, 24)}, r"frames should be \(B T 3 H W\).*, got \(3, 3"),
        ({"questions": Tokens(torch.zeros(3, 9).long(), torch.ones(3, 8))}, r"attention_mask .*"),
        ({"answers": answers([3, 4])}, r"answers.input_ids should be .*P=3, got \(2, 4\)"),
        (
            {"answers": Tokens(torch.zeros(3, 4).long(), torch.ones(3, 5))},
            r"answers.attention_mask should be .*W=4, got \(3, 5\)",
        ),
        ({"answers": Tokens(*[torch.ones(3, 1).long()] * 2)}, r"W >= 2, .* got \(3, 1\)"),
        ({"question_of_answer": torch.tensor([0, 1])}, r"question_of_answer .*A=3, got \(2,\)"),
        (
            {"question_of_answer": torch.tensor([0, 1, 3])},
            r"question_of_answer should be from 0 to 2 for .*\(3, 4, 3, 24, 24\), got 0 to 3",
        ),
        ({"question_of_answer": torch.tensor([0, -1, 2])}, r"from 0 to 2 .*got -1 to 2"),
        ({"weights": torch.ones(1)}, r"weights should be \(A\) with A=3, got \(1,\)"),
    ],
)
def test_wrong_shapes_raise_with_both_shapes(changes, message):
    with pytest.raises(ShapeError, match=message):
        qa_model().loss(**wrong(**changes))


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


# Weights

BLIP_ALONE = {
    **WITHOUT_TEMPORAL,
    "time_embedding_scale": 0.0,
    "num_frames": 1,
    "pooling": "concat",
    "pooling_temperature": 1.0,
}


def checkpoint(model):
    """What a BLIP checkpoint holds of our model: the tied tensors are there twice."""
    state = dict(model.state_dict())
    state[f"{HEAD}.decoder.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"]
    state[f"{HEAD}.decoder.bias"] = state[f"{HEAD}.bias"]
    return state


@pytest.fixture
def blip_state():
    """A pre-trained BLIP's tensors: retrieval and decoder, projections and momentum twins."""
    retrieval = tiny_model(**WITHOUT_TEMPORAL).state_dict()
    vqa = checkpoint(qa_model(**BLIP_ALONE))
    twins = {"vision_proj_m.weight": torch.zeros(8, 24), "image_queue": torch.zeros(8, 2)}
    positions = {"text_encoder.embeddings.position_ids": torch.arange(16.0)[None]}
    return {**retrieval, **vqa, **twins, **positions}


@pytest.fixture
def blip_file(tmp_path, blip_state):
    """The same as a file."""
    save_blip(tmp_path / "blip.safetensors", blip_state, tiny_config())
    return tmp_path / "blip.safetensors"


TIED = {f"{HEAD}.decoder.weight", f"{HEAD}.decoder.bias"}
OTHERS = {"vision_proj_m.weight", "image_queue", "text_encoder.embeddings.position_ids"}
MATCHING = {"itm_head.weight", "itm_head.bias", "temp"}
PROJECTIONS = {f"{kind}_proj.{part}" for kind in ("vision", "text") for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("space", "dropped"),
    [
        ("hidden", TIED | OTHERS | MATCHING | PROJECTIONS),
        ("projected", TIED | OTHERS | MATCHING),
    ],
)
def test_every_key_of_blip_is_accounted_for(blip_file, blip_state, space, dropped):
    model, report = load_blip(LiteVLForQuestionAnswering, blip_file, pooling_space=space)
    assert set(report.dropped_by_design) == dropped
    assert report.loaded == len(blip_state) - len(dropped)
    assert report.loaded + len(report.new_by_design) == len(model.state_dict())
    assert all(NEW_BY_DESIGN.match(key) for key in report.new_by_design)
    for key, tensor in model.state_dict().items():
        if key not in report.new_by_design:
            assert torch.equal(tensor, blip_state[key].half().float()), key


def test_retrieval_drops_the_decoder_and_keeps_the_rest(blip_file, blip_state):
    _, report = load_blip(LiteVLForRetrieval, blip_file)
    decoder = {key for key in blip_state if key.startswith("text_decoder.")}
    assert set(report.dropped_by_design) == decoder | OTHERS


def test_from_blip_takes_sizes_from_the_file_and_options_from_the_caller(blip_file):
    model = LiteVLForQuestionAnswering.from_blip(blip_file, num_frames=3, pooling="mean")
    assert model.config == tiny_config(num_frames=3, pooling="mean")


@torch.no_grad()
def test_model_from_blip_without_temporal_parts_answers_as_blip(blip_file, blip_state):
    model = LiteVLForQuestionAnswering.from_blip(blip_file, **BLIP_ALONE).eval()
    source = qa_model(**BLIP_ALONE)
    source.load_state_dict({key: blip_state[key].half().float() for key in source.state_dict()})
    images = random_frames(3, num_frames=1)
    assert torch.equal(
        model.loss(images, questions(), answers()), source.loss(images, questions(), answers())
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{HEAD}.bias": None}, rf"{HEAD}.bias: not in the checkpoint"),
        ({"text_decoder.bert.extra": torch.ones(1)}, r"text_decoder.bert.extra: no place"),
        ({f"{HEAD}.decoder.extra": torch.ones(1)}, rf"{HEAD}.decoder.extra: no place"),
        ({f"{HEAD}.decoder.bias": torch.ones(40)}, rf"decoder.bias: differs from {HEAD}.bias"),
        ({f"{HEAD}.decoder.weight": torch.ones(40, 24)}, r"differs from .*word_embeddings.weight"),
    ],
)
def test_key_without_its_place_is_named(tmp_path, blip_state, change, message):
    state = {key: tensor for key, tensor in {**blip_state, **change}.items() if tensor is not None}
    save_blip(tmp_path / "blip.safetensors", state, tiny_config())
    with pytest.raises(WeightsError, match=message):
        LiteVLForQuestionAnswering.from_blip(tmp_path / "blip.safetensors")


def test_checkpoint_without_projections_is_refused_where_they_are_needed(tmp_path):
    model = qa_model(**BLIP_ALONE)
    save_blip(tmp_path / "vqa.safetensors", checkpoint(model), model.config)
    LiteVLForQuestionAnswering.from_blip(tmp_path / "vqa.safetensors")
    with pytest.raises(WeightsError, match=r"text_proj.bias: not in the checkpoint"):
        LiteVLForQuestionAnswering.from_blip(
            tmp_path / "vqa.safetensors", pooling_space="projected"
        )


@pytest.mark.parametrize("space", ["hidden", "projected"])
def test_saved_model_comes_back_as_it_was(tmp_path, space):
    model = qa_model(pooling_space=space)
    model.save_pretrained(tmp_path)
    again = LiteVLForQuestionAnswering.from_pretrained(tmp_path)
    assert again.config == model.config
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not again.training


def test_saved_weights_can_be_used_with_another_pooling(tmp_path):
    model = qa_model()
    model.save_pretrained(tmp_path)
    other = replace(model.config, pooling="mean")
    assert LiteVLForQuestionAnswering.from_pretrained(tmp_path, config=other).config == other


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no config.json"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)


def test_unknown_field_in_config_json_is_named(tmp_path):
    qa_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"poolling": "text"}))
    with pytest.raises(WeightsError, match=r"config.json has unknown poolling"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)


def test_tensor_that_the_file_lacks_is_not_left_random(tmp_path):
    qa_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[f"{HEAD}.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{HEAD}.bias"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)


def test_retrieval_model_is_no_question_answering_model(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="text_decoder"):
        LiteVLForQuestionAnswering.from_pretrained(tmp_path)
