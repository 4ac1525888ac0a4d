"""What transformers' BLIP gets wrong or leaves out, one test each: why it is no part of our model.

Each test computes what BLIP does by loops over heads and words, sees that ours agrees and that
transformers does not. One that fails after an update says that a trap is gone, or a new one came.
"""

import blip_oracle
import pytest
import torch
import transformers
from tiny import (
    CLS,
    DEC,
    ENC,
    TOLERANCE,
    largest_difference,
    random_captions,
    random_frames,
    tiny_model,
)
from tiny_answers import BLIP_ALONE, pad, qa_model
from torch.nn import functional as F
from transformers import BlipTextConfig, BlipVisionConfig

from litevl import LiteVLConfig
from litevl.model.question_answering import LABEL_SMOOTHING
from litevl.model.text import Source
from litevl.model.tokenizer import Tokens

CLOSE = TOLERANCE[torch.float32]
FAR = 0.01
SMOOTHING = 0.1  # hard-coded in BLIP's decoder


def expect_trap(ours, blip, oracle, what):
    """Ours is BLIP's, and transformers' is not."""
    assert largest_difference(ours, blip) <= CLOSE, "ours does not do what BLIP does"
    assert largest_difference(oracle, blip) > FAR, gone(what)


def gone(what):
    """Say what to do when transformers does as BLIP does."""
    return (
        f"transformers {transformers.__version__} no longer {what}: "
        "drop this test, and the workaround in tests/blip_oracle.py if it has one"
    )


# BLIP by loops over heads and words


def naive_norm(norm, x, eps):
    """Layer normalisation with an eps of one's own: (..., D)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return centred / deviation * norm.weight + norm.bias


def naive_attention(query, key, value, seen, num_heads):
    """What each place gathers. query: (W, D), key and value: (S, D), seen: (W, S) bool."""
    mixed, width = torch.zeros_like(query), query.shape[1] // num_heads
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        for word in range(len(query)):
            score = key[seen[word], part] @ query[word, part] / width**0.5
            mixed[word, part] = score.softmax(dim=0) @ value[seen[word], part]
    return mixed


def naive_image_tokens(encoder, image, eps=1e-6):
    """Tokens (1 + N, D) of one picture (3, H, W), normalised with eps: BLIP's is 1e-6."""
    config, proj = encoder.config, encoder.patch_embed.proj
    patches = F.conv2d(image, proj.weight, proj.bias, stride=config.patch_size_px)
    x = torch.cat([encoder.cls_token[0], patches.flatten(1).T]) + encoder.pos_embed[0]
    everything = torch.ones(len(x), len(x), dtype=torch.bool)
    for block in encoder.blocks:
        parts = block.attn.qkv(naive_norm(block.norm1, x, eps)).chunk(3, dim=1)
        x = x + block.attn.proj(naive_attention(*parts, everything, config.vision_heads))
        x = x + block.mlp(naive_norm(block.norm2, x, eps))
    return naive_norm(encoder.norm, x, eps)


def naive_words(encoder, input_ids, num_heads, source, source_seen=None, is_causal=False):
    """One text (W,) without padding that looks at a source (S, D): (W, D).

    source_seen: (S,) bool, None for all of it.
    """
    words, count = encoder.embeddings, len(input_ids)
    x = words.word_embeddings.weight[input_ids] + words.position_embeddings.weight[:count]
    x = naive_norm(words.LayerNorm, x, 1e-12)
    own = torch.ones(count, count, dtype=torch.bool)
    own = own.tril() if is_causal else own
    if source_seen is None:
        source_seen = torch.ones(len(source), dtype=torch.bool)
    for layer in encoder.encoder.layer:
        for part, memory, seen in (
            (layer.attention, None, own),
            (layer.crossattention, source, source_seen.expand(count, -1)),
        ):
            memory = x if memory is None else memory
            heads, out = part.self, part.output
            parts = heads.query(x), heads.key(memory), heads.value(memory)
            mixed = naive_attention(*parts, seen, num_heads)
            x = naive_norm(out.LayerNorm, x + out.dense(mixed), 1e-12)
        out = layer.output
        x = naive_norm(out.LayerNorm, x + out.dense(layer.intermediate(x)), 1e-12)
    return x


def naive_log_p(decoder, input_ids, num_heads, words, seen=None):
    """log p (W, V) of the word after each of one answer's, given a question's words (S, D)."""
    head = decoder.cls.predictions
    x = naive_words(decoder.bert, input_ids, num_heads, words, seen, is_causal=True)
    x = naive_norm(head.transform.LayerNorm, F.gelu(head.transform.dense(x)), 1e-12)
    return (x @ decoder.bert.embeddings.word_embeddings.weight.T + head.bias).log_softmax(dim=-1)


def naive_answer_loss(model, image, question, answer):
    """BLIP's loss () of one answer (W,) to one question (W,) about a picture, sum over tokens."""
    heads = model.config.text_heads
    asked, given = question.clone(), answer.clone()
    asked[0], given[0] = ENC, DEC
    words = naive_words(
        model.text_encoder, asked, heads, naive_image_tokens(model.visual_encoder, image)
    )
    log_p = naive_log_p(model.text_decoder, given, heads, words)
    loss = 0.0
    for place, token in enumerate(given[1:]):
        loss -= (1 - SMOOTHING) * log_p[place, token] + SMOOTHING * log_p[place].mean()
    return loss


@pytest.fixture(scope="module")
def retrieval():
    """A model for pictures whose matching sees all their tokens."""
    return tiny_model(**BLIP_ALONE)


@pytest.fixture(scope="module")
def answering():
    """A model for questions about pictures."""
    return qa_model(**BLIP_ALONE)


def one(seed, length=6):
    """One text of the given length as Tokens (1, W)."""
    return Tokens(*random_captions([length], seed=seed))


def image():
    """A batch of one clip of one frame: (1, 1, 3, H, W)."""
    return random_frames(1, num_frames=1)


# The traps


@torch.no_grad()
def test_transformers_ignores_the_padding_mask_of_cross_attention(answering):
    """Since 4.54: answers depend on how far the batch pads their question."""
    blip, heads = blip_oracle.answering_oracle(answering), answering.config.text_heads
    words = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    given = one(2).input_ids
    given[0, 0] = DEC
    ours = answering.text_decoder(given, torch.ones_like(given), Source(words, mask))
    theirs = blip.text_decoder(
        input_ids=given, encoder_hidden_states=words, encoder_attention_mask=mask
    ).logits
    naive = naive_log_p(answering.text_decoder, given[0], heads, words[0], mask[0].bool())
    what = "ignores the padding mask of cross-attention"
    expect_trap(ours[0].log_softmax(dim=-1), naive, theirs[0].log_softmax(dim=-1), what)


@torch.no_grad()
def test_transformers_loss_depends_on_the_padding_of_questions(answering):
    blip, asked, given = blip_oracle.answering_oracle(answering), one(1), one(2, 4)
    padded = pad(asked, 4)
    ours = answering.loss(image(), padded, given)
    grounded, started = padded.input_ids.clone(), given.input_ids.clone()
    grounded[:, 0], started[:, 0] = ENC, DEC
    theirs = blip(
        input_ids=grounded,
        attention_mask=padded.attention_mask,
        pixel_values=image()[0],
        decoder_input_ids=started,
        labels=started,
    ).loss
    naive = naive_answer_loss(answering, image()[0, 0], asked.input_ids[0], given.input_ids[0])
    expect_trap(ours, naive, theirs * 3, "lets the padding of a question into the loss")


@torch.no_grad()
def test_transformers_answers_freely_with_the_padding_of_questions_in_sight(answering, monkeypatch):
    """BLIP's own `generate` does the same; its ranking does not, and ours does neither."""
    blip, given = blip_oracle.answering_oracle(answering), {}
    monkeypatch.setattr(blip.text_decoder, "generate", lambda **options: given.update(options))
    padded = pad(one(1), 4)
    blip.generate(padded.input_ids, image()[0], attention_mask=padded.attention_mask)
    shown = given["encoder_attention_mask"]
    assert not torch.equal(shown, padded.attention_mask), gone("shows padding to `generate`")


@torch.no_grad()
def test_transformers_text_has_8_heads_unless_told(retrieval):
    """The 12-headed weights load without a word, and mean something else."""
    assert LiteVLConfig().text_heads == 12
    assert BlipTextConfig().num_attention_heads == 8, gone("has 8 heads by default")
    caption, heads = one(1), retrieval.config.text_heads
    caption.input_ids[:, 0] = ENC
    source = naive_image_tokens(retrieval.visual_encoder, image()[0, 0])
    ours = retrieval.text_encoder(caption.input_ids, caption.attention_mask, Source(source[None]))
    blip = blip_oracle.oracle(retrieval, text={"num_attention_heads": None})
    theirs = blip_oracle.grounded_words(blip, caption.input_ids[0], source)
    naive = naive_words(retrieval.text_encoder, caption.input_ids[0], heads, source)
    expect_trap(ours[0], naive, theirs, "has other heads than the weights by default")


@torch.no_grad()
def test_transformers_vision_norm_has_another_eps_unless_told():
    """1e-5 for BLIP's 1e-6; seen where the stream is faint, as in a plain picture."""
    assert BlipVisionConfig().layer_norm_eps == 1e-5, gone("has a vision eps of 1e-5 by default")
    model = tiny_model(**BLIP_ALONE)
    encoder = model.visual_encoder
    for faint in (encoder.cls_token, encoder.pos_embed, *encoder.patch_embed.parameters()):
        faint.mul_(0.01)
    blip = blip_oracle.oracle(model, vision={"layer_norm_eps": None})
    theirs = blip_oracle.image_tokens(blip, image())
    naive = naive_image_tokens(encoder, image()[0, 0])
    expect_trap(encoder(image())[0, 0], naive, theirs[0, 0], "has another eps than BLIP by default")
    assert largest_difference(theirs[0, 0], naive_image_tokens(encoder, image()[0, 0], 1e-5)) < FAR


@torch.no_grad()
def test_transformers_never_puts_enc_into_a_caption(retrieval):
    blip, caption, picture = blip_oracle.oracle(retrieval), one(1), image()
    assert caption.input_ids[0, 0] == CLS
    text = retrieval.encode_text(caption.input_ids, caption.attention_mask)
    ours = retrieval.match(retrieval.encode_video(picture), text)
    theirs = blip(caption.input_ids, picture[0], attention_mask=caption.attention_mask).itm_score
    grounded = caption.input_ids[0].clone()
    grounded[0] = ENC
    source = naive_image_tokens(retrieval.visual_encoder, picture[0, 0])
    words = naive_words(retrieval.text_encoder, grounded, retrieval.config.text_heads, source)
    naive = retrieval.itm_head.weight @ words[0] + retrieval.itm_head.bias
    expect_trap(ours[0], naive, theirs[0], "leaves [CLS] where BLIP's matching has [ENC]")


def transformers_loss(model, question, answer, **options):
    """BlipForQuestionAnswering's loss with nothing put in by hand."""
    blip = blip_oracle.answering_oracle(model)
    return blip(question, image()[0], labels=answer, **options).loss


@torch.no_grad()
def test_transformers_never_puts_enc_into_a_question(answering):
    asked, given = one(1), one(2, 4)
    started = given.input_ids.clone()
    started[:, 0] = DEC
    ours = answering.loss(image(), asked, given)
    theirs = transformers_loss(answering, asked.input_ids, started) * 3
    naive = naive_answer_loss(answering, image()[0, 0], asked.input_ids[0], given.input_ids[0])
    expect_trap(ours, naive, theirs, "leaves [CLS] where BLIP's question has [ENC]")


@torch.no_grad()
def test_transformers_trains_answers_from_cls_and_generates_them_from_dec(answering):
    asked, given = one(1), one(2, 4)
    grounded = asked.input_ids.clone()
    grounded[:, 0] = ENC
    ours = answering.loss(image(), asked, given)
    theirs = transformers_loss(answering, grounded, given.input_ids) * 3
    naive = naive_answer_loss(answering, image()[0, 0], asked.input_ids[0], given.input_ids[0])
    expect_trap(ours, naive, theirs, "trains answers from [CLS]")


@torch.no_grad()
def test_transformers_loss_counts_the_padding_of_answers(answering):
    """It reads the answer from its labels: -100 for padding is no word, so padding has to stay."""
    asked, given = one(1), one(2, 4)
    grounded, started = asked.input_ids.clone(), pad(given, 2).input_ids
    grounded[:, 0], started[:, 0], started[:, 4:] = ENC, DEC, 0
    ours = answering.loss(image(), asked, pad(given, 2))
    theirs = transformers_loss(answering, grounded, started) * 3
    naive = naive_answer_loss(answering, image()[0, 0], asked.input_ids[0], given.input_ids[0])
    expect_trap(ours, naive, theirs, "counts the padding of answers")
    with pytest.raises(IndexError):
        transformers_loss(answering, grounded, started.masked_fill(started == 0, -100))


@torch.no_grad()
def test_transformers_loss_is_a_mean_over_tokens_where_blips_is_a_sum(answering):
    asked, given = one(1), one(2, 4)
    grounded, started = asked.input_ids.clone(), given.input_ids.clone()
    grounded[:, 0], started[:, 0] = ENC, DEC
    ours = answering.loss(image(), asked, given)
    theirs = transformers_loss(answering, grounded, started)
    naive = naive_answer_loss(answering, image()[0, 0], asked.input_ids[0], given.input_ids[0])
    expect_trap(ours, naive, theirs, "takes the mean over an answer's tokens")
    assert largest_difference(theirs * 3, naive) <= CLOSE


def test_transformers_smooths_no_labels_unless_told():
    assert LABEL_SMOOTHING == SMOOTHING
    assert BlipTextConfig().label_smoothing == 0.0, gone("trains without label smoothing")


def test_transformers_has_no_dropout_unless_told():
    assert LiteVLConfig().dropout == 0.1
    assert BlipTextConfig().hidden_dropout_prob == 0.0, gone("has no dropout by default")
    assert BlipTextConfig().attention_probs_dropout_prob == 0.0, gone("has no attention dropout")


@torch.no_grad()
def test_transformers_normalises_its_pooled_picture_twice(retrieval):
    blip, encoder = blip_oracle.oracle(retrieval), retrieval.visual_encoder
    theirs = blip.vision_model(pixel_values=image()[0]).pooler_output
    naive = naive_image_tokens(encoder, image()[0, 0])[0]
    expect_trap(encoder(image())[0, 0, 0], naive, theirs[0], "normalises its pooled picture twice")


def test_transformers_drops_the_temperature(retrieval):
    assert "temp" in retrieval.state_dict()
    assert "temp" not in blip_oracle.oracle(retrieval).state_dict(), gone("drops the temperature")


def test_transformers_has_no_fused_attention():
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        transformers.BlipModel._from_config(
            transformers.BlipConfig(
                vision_config={"num_hidden_layers": 1}, text_config={"num_hidden_layers": 1}
            ),
            attn_implementation="sdpa",
        )
