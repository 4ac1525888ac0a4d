"""Question answering on tiny models: texts of different lengths, and its scores one at a time."""

import torch
from tiny import (
    BRANCH,
    DEC,
    ENC,
    FIRST_WORD,
    TOLERANCE,
    WITHOUT_TEMPORAL,
    conditioned,
    fill,
    random_captions,
    tiny_config,
)

from litevl import LiteVLForQuestionAnswering
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.text import Source
from litevl.model.tokenizer import Tokens

CLOSE = TOLERANCE[torch.float32]
QUESTION_LENGTHS = [6, 9, 4]
ANSWER_LENGTHS = [3, 5, 4]
LIST_LENGTHS = [4, 3, 6, 5, 3, 4, 7, 3]
HEAD = "text_decoder.cls.predictions"
BLIP_ALONE = {
    **WITHOUT_TEMPORAL,
    "time_embedding_scale": 0.0,
    "num_frames": 1,
    "pooling": "concat",
    "pooling_temperature": 1.0,
}


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
    source = conditioned(retrieval, retrieval.encode_video(frames), text)
    ids = question.input_ids.clone()
    ids[:, 0] = ENC
    return model.text_encoder(ids, question.attention_mask, Source(source))


@torch.no_grad()
def naive_score(model, words, answer, smoothing=0.0):
    """An answer's log-likelihood, one token after the other, from everything before it."""
    wanted = answer.input_ids[0].tolist()
    known, total = [DEC], 0.0
    for token in wanted[1:]:
        ids = torch.tensor([known])
        log_p = model.text_decoder(ids, torch.ones_like(ids), Source(words))[0, -1].log_softmax(
            dim=-1
        )
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


def checkpoint(model):
    """What a BLIP checkpoint holds of our model: the tied tensors are there twice."""
    state = dict(model.state_dict())
    state[f"{HEAD}.decoder.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"]
    state[f"{HEAD}.decoder.bias"] = state[f"{HEAD}.bias"]
    return state
