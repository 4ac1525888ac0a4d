"""Pre-training mini-BLIP on questions: a decoder of its own, and words it never met."""

import numpy as np
import pytest
import torch

from litevl.data.stills import NUM_QUESTIONS, vocabulary
from litevl.engine import pretrain
from litevl.engine.mini_blip import (
    UNSEEN_WORD_STD,
    MiniBlip,
    Recipe,
    blip_layout,
    initialise,
    mini_config,
    redraw_unseen_words,
)
from litevl.engine.pretrain import (
    Stills,
    learn_answers,
    learn_captions,
    prepare_stills,
    validate,
)
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.tokenizer import Tokenizer

FEW = Recipe(
    num_stills=4,
    batch_size=2,
    epochs=1,
    answer_epochs=1,
    image_size_px=32,
    width=16,
    vision_depth=1,
    text_depth=1,
    heads=2,
    embed_width=8,
)
CAPTIONS = ["a red ring", "a blue star beside a red ring", "a red ring", "a cyan cross"]
ASKED = [
    [("what is red?", "ring"), ("where is the ring?", "left"), ("how many red things?", "one")],
    [("what is blue?", "star"), ("who is red?", "ring"), ("how many green things?", "no")],
    [("what is red?", "ring"), ("where is the ring?", "right"), ("how many red things?", "one")],
    [("what is cyan?", "cross"), ("who is cyan?", "cross"), ("where is the cross?", "top")],
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """The mini world's."""
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    return Tokenizer.from_vocabulary(path)


@pytest.fixture
def stills(tokenizer, monkeypatch) -> Stills:
    """Four stills of noise with captions and questions of different lengths."""
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(pretrain, "draw_stills", lambda *_: (images, CAPTIONS, ASKED))
    return prepare_stills(4, 0, FEW, tokenizer, 1)


@pytest.fixture
def fresh(tokenizer) -> MiniBlip:
    """A model that has learned nothing yet."""
    model = MiniBlip(mini_config(FEW, len(tokenizer)))
    initialise(model, torch.Generator().manual_seed(0))
    return model


def learned(learn, model, stills) -> list[dict[str, float]]:
    """The curve that one epoch of `learn` leaves."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    return learn(model, stills, FEW, generator, rng)


def test_questions_of_a_still_stand_side_by_side_each_with_its_answer(stills, tokenizer):
    words = tokenizer.bert.convert_ids_to_tokens
    assert NUM_QUESTIONS == 3
    for row, (question, answer) in enumerate(pair for still in ASKED for pair in still):
        for tokens, text in ((stills.questions, question), (stills.answers, answer)):
            ids = tokens.input_ids[row][tokens.attention_mask[row] > 0]
            assert words(ids.tolist()) == ["[CLS]", *tokenizer.bert.tokenize(text), "[SEP]"]
    assert stills.caption_ids.tolist() == [0, 1, 0, 2]


def test_decoder_has_weights_of_its_own_once_it_learns_answers(fresh, stills):
    learned(learn_captions, fresh, stills)
    encoder, tied = fresh.retrieval.text_encoder, fresh.text_decoder
    assert {id(p) for p in tied.parameters()} & {id(p) for p in encoder.parameters()}
    before = {name: value.clone() for name, value in tied.state_dict().items()}
    learned(learn_answers, fresh, stills)
    own = fresh.text_decoder
    assert not {id(p) for p in own.parameters()} & {id(p) for p in encoder.parameters()}
    after, theirs = own.state_dict(), encoder.state_dict()
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(after[f"bert.{name}"], before[f"bert.{name}"])
    assert not torch.equal(after[f"bert.{name}"], theirs[name])
    assert not torch.equal(theirs[name], before[f"bert.{name}"])


def test_decoders_own_weights_are_those_that_are_shipped(fresh, stills):
    learned(learn_answers, fresh, stills)
    shipped = blip_layout(fresh)
    own = fresh.text_decoder.bert.embeddings.word_embeddings.weight
    assert torch.equal(shipped["text_decoder.bert.embeddings.word_embeddings.weight"], own)
    assert torch.equal(shipped["text_decoder.cls.predictions.decoder.weight"], own)
    encoders = fresh.retrieval.text_encoder.embeddings.word_embeddings.weight
    assert torch.equal(shipped["text_encoder.embeddings.word_embeddings.weight"], encoders)
    assert not torch.equal(own, encoders)


@pytest.mark.parametrize(
    ("learn", "names"),
    [(learn_captions, {"itc", "itm", "lm"}), (learn_answers, {"itc", "itm", "answer"})],
)
def test_matching_is_learned_beside_captions_and_beside_answers(fresh, stills, learn, names):
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    (point,) = learned(learn, fresh, stills)
    assert point.keys() == {"step"} | names
    assert all(np.isfinite(value) and value > 0 for value in point.values())
    after = fresh.state_dict()
    for part in ("retrieval.itm_head.weight", "retrieval.text_proj.weight", "retrieval.temp"):
        assert not torch.equal(after[part], before[part])


def test_answer_loss_is_that_of_each_still_repeated_for_its_questions(fresh, stills, monkeypatch):
    """The clip_of_question that `learn_answers` makes, against stills one by one."""
    given = []
    original = LiteVLForQuestionAnswering.loss

    def loss(self, images, questions, answers, clip_of_question):
        found = original(self, images, questions, answers, clip_of_question=clip_of_question)
        with torch.no_grad():
            alone = [
                original(
                    self,
                    images[clip : clip + 1],
                    questions.select(torch.tensor([row])),
                    answers.select(torch.tensor([row])),
                ).item()
                for row, clip in enumerate([0, 0, 0, 1, 1, 1])
            ]
        given.append((images, questions, answers, found.item(), float(np.mean(alone))))
        return found

    monkeypatch.setattr(LiteVLForQuestionAnswering, "loss", loss)
    monkeypatch.setattr(pretrain, "computing", lambda *_: torch.autocast("cpu", enabled=False))
    learned(learn_answers, fresh, stills)
    assert len(given) == 2
    everything = pretrain.normalise(stills.images[:, None])
    for images, questions, answers, together, alone in given:
        assert together == pytest.approx(alone, rel=1e-5)
        shown = [int((everything == image).flatten(1).all(dim=1).nonzero()) for image in images]
        rows = [3 * still + place for still in shown for place in range(3)]
        assert torch.equal(questions.input_ids, stills.questions.input_ids[rows])
        assert torch.equal(answers.input_ids, stills.answers.input_ids[rows])


def test_question_answering_of_mini_blip_is_made_of_its_own_weights(fresh):
    model = fresh.answering()
    own = {id(parameter) for parameter in fresh.parameters()}
    assert {id(parameter) for parameter in model.parameters()} <= own
    assert model.training == fresh.training
    assert not fresh.eval().answering().training


# Words that were never used


def test_words_never_used_are_drawn_anew_and_no_others():
    before = torch.arange(20.0)[:, None].repeat(1, 400) * 10
    words, used = before.clone(), torch.tensor([7, 8, 8, 11])
    redraw_unseen_words(words, used, torch.Generator().manual_seed(0))
    kept = {*range(5), 7, 8, 11, 18, 19}  # special tokens, used words, [DEC] and [ENC]
    for row in range(20):
        assert torch.equal(words[row], before[row]) == (row in kept), row
    drawn = words[[row for row in range(20) if row not in kept]]
    assert drawn.std().item() == pytest.approx(UNSEEN_WORD_STD, rel=0.05)
    directions = torch.nn.functional.normalize(drawn, dim=1)
    cosines = directions @ directions.T - torch.eye(len(drawn))
    assert cosines.abs().max() < 0.3
    again = before.clone()
    redraw_unseen_words(again, used, torch.Generator().manual_seed(0))
    assert torch.equal(words, again)


def test_words_are_drawn_anew_where_they_were_not_learned(fresh, stills, tokenizer, monkeypatch):
    """Captions teach the encoder, which then learns questions; its decoder learns answers alone."""
    drawn = []
    monkeypatch.setattr(
        pretrain,
        "redraw_unseen_words",
        lambda words, used, generator: drawn.append((words, set(used.tolist()), generator)),
    )
    learned(learn_captions, fresh, stills)
    learned(learn_answers, fresh, stills)
    (encoders, in_captions, one), (decoders, in_both, two) = drawn
    assert encoders is fresh.retrieval.text_encoder.embeddings.word_embeddings.weight
    assert decoders is fresh.text_decoder.bert.embeddings.word_embeddings.weight
    ids = tokenizer.bert.convert_tokens_to_ids
    of_captions = {*ids(["a", "red", "ring", "blue", "star", "beside", "cyan", "cross"])}
    of_answers = {*ids(["ring", "left", "right", "one", "no", "star", "cross", "top"])}
    special = {0, 2, 3}  # [PAD], [CLS], [SEP]
    assert in_captions == of_captions | special
    assert in_both == of_captions | of_answers | special
    assert not in_both & {*ids(["what", "who", "how", "green"])}
    assert one.initial_seed() == two.initial_seed() == FEW.seed


# Validation


def test_answer_accuracy_is_that_of_a_loop_over_questions_and_answers(fresh, stills):
    learned(learn_answers, fresh, stills)
    fresh.requires_grad_(False)
    found = validate(fresh, stills)
    model = fresh.answering()
    assert not model.training
    images = pretrain.normalise(stills.images[:, None])
    listed = sorted({answer for still in ASKED for _, answer in still})
    hits = []
    for row, (_, answer) in enumerate(pair for still in ASKED for pair in still):
        asked = stills.questions.select(torch.tensor([row]))
        features = model.encode(images[row // 3 : row // 3 + 1], asked)
        scores = {}
        for other, (_, text) in enumerate(pair for still in ASKED for pair in still):
            tokens = stills.answers.select(torch.tensor([other]))
            scores[text] = model.answer_losses(features, tokens, 0.0).item()
        assert sorted(scores) == listed
        hits.append(min(scores, key=scores.__getitem__) == answer)
    assert found["answer_accuracy_percent"] == round(100 * float(np.mean(hits)), 2)
    assert found.keys() == {
        "itc_recall_at_1_percent", "itm_beats_hardest_percent", "answer_accuracy_percent",
    }  # fmt: skip
