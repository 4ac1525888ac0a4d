"""transformers' BLIP with the weights of our model: what we compare with, where it is right.

Heads and eps have to be set (its defaults are not BLIP's), [ENC] and [DEC] are put in by hand, and
texts go in without padding; tests/model/test_oracle_traps.py shows why. Nothing in litevl/ uses it.
"""

import re

import torch
from torch.nn.functional import normalize
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipTextConfig,
    BlipVisionConfig,
    BlipVisionModel,
)
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

VISION_NAMES = (
    (r"^visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj", "vision_model.embeddings.patch_embedding"),
    (r"^visual_encoder\.blocks", "vision_model.encoder.layers"),
    (r"^visual_encoder\.norm", "vision_model.post_layernorm"),
    (r"\.attn\.qkv", ".self_attn.qkv"),
    (r"\.attn\.proj", ".self_attn.projection"),
    (r"\.norm([12])\.", r".layer_norm\1."),
)


def vision_sizes(config):
    """Our sizes of the image encoder under transformers' names."""
    return {
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_hidden_layers": config.vision_depth,
        "num_attention_heads": config.vision_heads,
        "image_size": config.image_size_px,
        "patch_size": config.patch_size_px,
        "layer_norm_eps": 1e-6,
    }


def text_sizes(config):
    """Our sizes of the text side under transformers' names."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.text_width,
        "encoder_hidden_size": config.vision_width,
        "intermediate_size": config.text_mlp_width,
        "num_hidden_layers": config.text_depth,
        "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.max_positions,
        "layer_norm_eps": 1e-12,
        "label_smoothing": 0.1,
    }


def tied(decoder, prefix=""):
    """What transformers and BLIP hold twice of a TextDecoder, and our model once."""
    head = f"{prefix}cls.predictions"
    return {
        f"{head}.decoder.weight": decoder.bert.embeddings.word_embeddings.weight.detach(),
        f"{head}.decoder.bias": decoder.cls.predictions.bias.detach(),
    }


def blip_names(ours):
    """The BLIP part of our model's weights under transformers' names."""
    state = {}
    for name, tensor in ours.items():
        if "temporal" in name or name.endswith(("time_embed", "temp")):
            continue
        if name.startswith("visual_encoder"):
            for pattern, theirs in VISION_NAMES:
                name = re.sub(pattern, theirs, name)
        state[name] = tensor
    return state


def with_weights(model_class, settings, state):
    """A model of transformers' that shares its weights with ours, which are of any precision."""
    with torch.device("meta"):  # nothing is drawn that would be replaced
        blip = model_class(settings)
    blip.load_state_dict(state, assign=True)
    for module in blip.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):  # no part of the weights
            places = torch.arange(module.position_ids.shape[-1])[None]
            module.register_buffer("position_ids", places, persistent=False)
    return blip.eval()


def decoder_oracle(decoder, config):
    """BlipTextLMHeadModel with the weights of a TextDecoder."""
    settings = BlipTextConfig(**text_sizes(config), is_decoder=True)
    return with_weights(BlipTextLMHeadModel, settings, {**decoder.state_dict(), **tied(decoder)})


def oracle(model, vision=None, text=None):
    """BlipForImageTextRetrieval with the BLIP part of a LiteVL model's weights.

    vision, text: its settings where they are not to be those that fit; None takes its default.
    """
    config = model.config
    settings = BlipConfig(
        vision_config=changed(vision_sizes(config), vision),
        text_config=changed(text_sizes(config), text),
        image_text_hidden_size=config.embed_width,
    )
    return with_weights(BlipForImageTextRetrieval, settings, blip_names(model.state_dict()))


def answering_oracle(model):
    """BlipForQuestionAnswering with the BLIP part of our model's weights, label smoothing 0.1."""
    config = model.config
    settings = BlipConfig(vision_config=vision_sizes(config), text_config=text_sizes(config))
    state = {**blip_names(model.state_dict()), **tied(model.text_decoder, "text_decoder.")}
    return with_weights(BlipForQuestionAnswering, settings, state)


def vision_oracle(encoder):
    """BlipVisionModel with the BLIP part of a VideoEncoder's weights."""
    state = {f"visual_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    below = len("vision_model.")
    state = {name[below:]: tensor for name, tensor in blip_names(state).items()}
    return with_weights(BlipVisionModel, BlipVisionConfig(**vision_sizes(encoder.config)), state)


def changed(settings, changes):
    """Settings with others in their place, and without those that become None."""
    merged = {**settings, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}


@torch.no_grad()
def image_tokens(blip, frames):
    """Tokens of each frame, alone: (..., 3, H, W) to (..., 1 + N, D)."""
    tokens = blip.vision_model(pixel_values=frames.flatten(0, -4)).last_hidden_state
    return tokens.unflatten(0, frames.shape[:-3])


@torch.no_grad()
def text_cls(blip, input_ids):
    """[CLS] of one caption (W,) without a picture: (D,)."""
    return blip.text_encoder(input_ids=input_ids[None]).last_hidden_state[0, 0]


@torch.no_grad()
def grounded_words(blip, input_ids, source):
    """One text (W,) that starts with [ENC] and looks at tokens (S, D): (W, D)."""
    grounded = input_ids.clone()
    grounded[0] = blip.config.text_config.vocab_size - 1  # [ENC]
    found = blip.text_encoder(input_ids=grounded[None], encoder_hidden_states=source[None])
    return found.last_hidden_state[0]


@torch.no_grad()
def matching_logits(blip, input_ids, source):
    """ITM logits (2,) of one caption (W,) grounded by [ENC] in tokens (S, D)."""
    return blip.itm_head(grounded_words(blip, input_ids, source)[0])


@torch.no_grad()
def answer_log_likelihood(blip, words, answer):
    """log p () of one answer (W,) after a question's grounded words (W, D), from [DEC] on."""
    given = answer.clone()
    given[0] = blip.config.text_config.vocab_size - 2  # [DEC]
    logits = blip.text_decoder(input_ids=given[None], encoder_hidden_states=words[None]).logits
    return logits[0, :-1].log_softmax(dim=-1).gather(1, given[1:, None]).sum()


@torch.no_grad()
def embedding(blip, frame_tokens):
    """A clip's embedding (E,) from its frames' tokens (T, 1 + N, D), as in BLIP's evaluation."""
    return normalize(blip.vision_proj(frame_tokens[:, 0]).mean(dim=0), dim=0)


@torch.no_grad()
def video_score(blip, frames, input_ids):
    """BLIP's own score of one clip (T, 3, H, W) and one caption (W,), one frame at a time.

    The ITM logit over the tokens of all frames, plus the cosine of text and mean frame embedding.
    """
    tokens = torch.cat([image_tokens(blip, frame[None]) for frame in frames])
    text = normalize(blip.text_proj(text_cls(blip, input_ids)), dim=0)
    itc = embedding(blip, tokens) @ text
    return (matching_logits(blip, input_ids, tokens.flatten(0, 1))[1] + itc).item()
