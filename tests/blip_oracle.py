"""transformers' BLIP with the weights of our model: what we compare with, where it is right.

Heads and eps have to be set (its defaults are not BLIP's), [ENC] is put in by hand, and captions
go in without padding. Nothing in litevl/ uses it.
"""

import re

import torch
from torch.nn.functional import normalize
from transformers import BlipConfig, BlipForImageTextRetrieval, BlipTextConfig
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
    }


def decoder_oracle(decoder, config):
    """BlipTextLMHeadModel with the weights of a TextDecoder."""
    blip = BlipTextLMHeadModel(BlipTextConfig(**text_sizes(config), is_decoder=True))
    state = dict(decoder.state_dict())
    words, bias = state["bert.embeddings.word_embeddings.weight"], state["cls.predictions.bias"]
    state |= {"cls.predictions.decoder.weight": words, "cls.predictions.decoder.bias": bias}
    blip.load_state_dict(state)
    return blip.eval()


def oracle(model):
    """BlipForImageTextRetrieval with the BLIP part of a LiteVL model's weights."""
    config = model.config
    blip = BlipForImageTextRetrieval(
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
            text_config=text_sizes(config),
            image_text_hidden_size=config.embed_width,
        )
    )
    state = {}
    for name, tensor in model.state_dict().items():
        if "temporal" in name or name.endswith(("time_embed", "temp")):
            continue
        if name.startswith("visual_encoder"):
            for ours, theirs in VISION_NAMES:
                name = re.sub(ours, theirs, name)
        state[name] = tensor
    blip.load_state_dict(state)
    return blip.to(model.temp.dtype).eval()


@torch.no_grad()
def text_cls(blip, input_ids):
    """[CLS] of one caption (W,) without a picture: (D,)."""
    return blip.text_encoder(input_ids=input_ids[None]).last_hidden_state[0, 0]


@torch.no_grad()
def matching_logits(blip, input_ids, source):
    """ITM logits (2,) of one caption (W,) grounded by [ENC] in tokens (S, D)."""
    grounded = input_ids.clone()
    grounded[0] = blip.config.text_config.vocab_size - 1  # [ENC]
    hidden = blip.text_encoder(input_ids=grounded[None], encoder_hidden_states=source[None])
    return blip.itm_head(hidden.last_hidden_state[0, 0])


@torch.no_grad()
def video_score(blip, frames, input_ids):
    """BLIP's own score of one clip (T, 3, H, W) and one caption (W,), one frame at a time.

    The ITM logit over the tokens of all frames, plus the cosine of text and mean frame embedding.
    """
    tokens = [blip.vision_model(pixel_values=frame[None]).last_hidden_state[0] for frame in frames]
    embedding = sum(blip.vision_proj(frame_tokens[0]) for frame_tokens in tokens) / len(tokens)
    text = blip.text_proj(text_cls(blip, input_ids))
    itc = normalize(embedding, dim=0) @ normalize(text, dim=0)
    return (matching_logits(blip, input_ids, torch.cat(tokens))[1] + itc).item()
