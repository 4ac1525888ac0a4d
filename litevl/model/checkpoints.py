"""BLIP's checkpoint files: which layout they have, their tensors by BLIP's names, their sizes.

Three layouts are read. `litevl`: safetensors that say their sizes, as the shipped mini-BLIP.
`blip`: the files of salesforce/BLIP, a pickled {"model": tensors}. `transformers`: a folder with
config.json and one or several files of weights. Nothing but tensors is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from litevl.errors import WeightsError
from litevl.model.config import HEAD_WIDTH, LiteVLConfig
from litevl.whole import write_bytes

Layout = Literal["litevl", "blip", "transformers"]

SIZES = (
    "image_size_px",
    "patch_size_px",
    "vision_width",
    "vision_depth",
    "vision_heads",
    "vocab_size",
    "text_width",
    "text_depth",
    "text_heads",
    "text_mlp_width",
    "max_positions",
    "embed_width",
    "dropout",
)
# transformers' names, for keys below vision_model; its other keys have BLIP's names.
BLIP_NAMES = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
    (r"^vision_model\.encoder\.layers\.", "visual_encoder.blocks."),
    (r"^vision_model\.post_layernorm\.", "visual_encoder.norm."),
    (r"^(visual_encoder\.blocks\.\d+)\.self_attn\.qkv\.", r"\1.attn.qkv."),
    (r"^(visual_encoder\.blocks\.\d+)\.self_attn\.projection\.", r"\1.attn.proj."),
    (r"^(visual_encoder\.blocks\.\d+)\.layer_norm([12])\.", r"\1.norm\2."),
)
DEFAULT_VISION_HEADS, DEFAULT_TEXT_HEADS = 12, 8  # transformers', where config.json names none
DAMAGED = (  # what torch.load may raise for bytes that are no file of torch.save
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, ArithmeticError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
TRANSFORMERS_FILES = (  # what save_pretrained writes, whole or in shards
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's tensors by BLIP's names, and what can be said of where they come from."""

    layout: Layout
    state: dict[str, Tensor]
    sizes: dict[str, Any]  # fields of LiteVLConfig
    sha256: str
    notes: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """A file, or a folder of transformers'. Raises WeightsError with the reason."""
    files = checkpoint_files(path)
    state: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        tensors, said = read_tensors(file)
        state |= tensors
        metadata |= said
    sha256 = combined_sha256(files)
    if "sizes" in metadata:
        sizes = said_sizes(path, metadata["sizes"])
        expect_same_sizes(path, sizes, sizes_in_shapes(path, state))
        return Checkpoint("litevl", state, sizes, sha256)
    expect_known_family(path, state)
    if any(key.startswith("vision_model.") for key in state):
        state = {blip_name(key): tensor for key, tensor in state.items()}
        config = read_config(files[0].parent / "config.json")
        sizes, notes = sizes_in_config(path, config, sizes_in_shapes(path, state))
        return Checkpoint("transformers", state, sizes, sha256, notes)
    return Checkpoint("blip", state, with_heads(path, sizes_in_shapes(path, state)), sha256)


def checkpoint_files(path: Path) -> list[Path]:
    """The file itself, or the files of weights in a folder of transformers'."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise WeightsError(f"{path}: no such file; give 'mini-blip' or a checkpoint's path")
    found = next((path / name for name in TRANSFORMERS_FILES if (path / name).is_file()), None)
    if found is None:
        raise WeightsError(
            f"{path}: no weights in this folder; looked for {', '.join(TRANSFORMERS_FILES)}"
        )
    if found.suffix != ".json":
        return [found]
    try:
        shards = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{found}: not an index of shards ({error!r})") from None
    if not shards or any(Path(name).name != name for name in shards):
        raise WeightsError(f"{found}: not an index of shards in this folder")
    there = {each.name for each in path.iterdir() if each.is_file()}
    missing = [name for name in shards if name not in there]
    if missing:
        raise WeightsError(
            f"{path}: {len(missing)} of {len(shards)} shards missing, first {missing[0][:80]}"
        )
    return [path / name for name in shards]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of one file as they are stored, and the file's own metadata."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                return {key: file.get_tensor(key) for key in names}, file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    content = unpickled(path)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]  # BLIP's files: beside it the optimizer's state, if anything
    if not (isinstance(content, dict) and content):
        raise WeightsError(f"{path}: holds no tensors by name")
    strange = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(
            f"{path}: expected tensors by name, below 'model' or directly; "
            f"{strange[0]!r} is a {type(content[strange[0]]).__name__}"
        )
    hollow = [
        key
        for key, tensor in content.items()
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ]
    if hollow:
        raise WeightsError(f"{path}: damaged: {hollow[0]!r} claims more numbers than it holds")
    return content, {}


def unpickled(path: Path) -> Any:
    """What torch.save wrote, tensors and plain containers only: no code in the file is run."""
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            expect_not_packed(path)
        # Files of the zip format, BLIP's among them, are mapped: momentum twins are never read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise WeightsError(f"{path}: damaged, or not a file of torch.save") from None
        raise WeightsError(
            f"{path}: asks for {named[1]} to be loaded, which is not a tensor; nothing was run\n"
            "  A checkpoint needs tensors only. Take BLIP's own file, or one saved as safetensors."
        ) from None
    except DAMAGED as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path}: damaged, or not a file of torch.save ({reason})\n"
            "  A download that was cut off looks like this: delete the file and fetch it again."
        ) from None


def expect_not_packed(path: Path) -> None:
    """Raise ValueError for an archive with compressed parts: they may unpack without end."""
    with zipfile.ZipFile(path) as archive:
        packed = [each for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(
            f"{packed[0].filename!r} in it is compressed; torch.save compresses nothing"
        )


def said_sizes(path: Path, text: str) -> dict[str, Any]:
    """The sizes in a file's metadata, as `save_blip` writes them."""
    try:
        sizes = json.loads(text)
    except ValueError:
        sizes = None
    if not isinstance(sizes, dict) or set(sizes) != set(SIZES):
        raise WeightsError(f"{path}: its metadata's 'sizes' are not a table of {', '.join(SIZES)}")
    return sizes


def expect_same_sizes(path: Path, said: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise WeightsError where the metadata speak of a larger or smaller model than the tensors."""
    problems = [
        f"{name}: {said[name]!r} in the metadata, {size} by the tensors' shapes"
        for name, size in found.items()
        if said[name] != size
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise WeightsError(f"{path}: damaged\n  {listed}")


def expect_known_family(path: Path, state: dict[str, Tensor]) -> None:
    """Raise WeightsError for checkpoints that have no place in LiteVL, with the reason."""
    tops = {key.partition(".")[0] for key in state}
    way_out = "start from a pre-training, retrieval or VQA checkpoint"
    if any("temporal" in key for key in state):
        reason = "this is a LiteVL model; load it with from_pretrained"
    elif "cls_head" in tops:
        reason = f"an NLVR2 checkpoint has two cross-attentions a layer; {way_out}"
    elif "text_model" in tops:
        reason = f"a BlipModel has no text encoder that looks at a picture; {way_out}"
    elif "text_encoder" not in tops and "text_decoder" in tops:
        reason = f"a captioning checkpoint has a decoder and no text encoder; {way_out}"
    elif not tops & {"visual_encoder", "vision_model"}:
        reason = f"no BLIP checkpoint; its tensors are called {', '.join(sorted(tops)[:4])}"
    else:
        return
    raise WeightsError(f"{path}: {reason}")


def blip_name(name: str) -> str:
    """BLIP's name of a tensor that transformers calls `name`."""
    for theirs, ours in BLIP_NAMES:
        name = re.sub(theirs, ours, name)
    return name


def sizes_in_shapes(path: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    """The sizes that the tensors' shapes tell: all but the number of heads."""
    patch = "visual_encoder.patch_embed.proj.weight"
    positions = "visual_encoder.pos_embed"
    words = "text_encoder.embeddings.word_embeddings.weight"
    places = "text_encoder.embeddings.position_embeddings.weight"
    hidden = "text_encoder.encoder.layer.0.intermediate.dense.weight"
    wanted = {patch: 4, positions: 3, words: 2, places: 2, hidden: 2}
    problems = [f"{key}: not in the checkpoint" for key in wanted if key not in state]
    problems += [
        f"{key}: expected {axes} axes, got {tuple(state[key].shape)}"
        for key, axes in wanted.items()
        if key in state and state[key].ndim != axes
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise WeightsError(f"{path}: its sizes cannot be told\n  {listed}")
    num_patches = state[positions].shape[1] - 1
    across = int(max(num_patches, 0) ** 0.5)
    if across == 0 or across**2 != num_patches:
        raise WeightsError(
            f"{path}: {positions}: 1 + {num_patches} positions are not [CLS] and a square"
        )
    sizes = {
        "image_size_px": across * state[patch].shape[-1],
        "patch_size_px": state[patch].shape[-1],
        "vision_width": state[patch].shape[0],
        "vision_depth": num_layers(state, r"visual_encoder\.blocks\.(\d+)\."),
        "vocab_size": state[words].shape[0],
        "text_width": state[words].shape[1],
        "text_depth": num_layers(state, r"text_encoder\.encoder\.layer\.(\d+)\."),
        "text_mlp_width": state[hidden].shape[0],
        "max_positions": state[places].shape[0],
    }
    if "vision_proj.weight" in state:  # VQA checkpoints have none, and no use for its size
        sizes["embed_width"] = state["vision_proj.weight"].shape[0]
    return sizes


def num_layers(state: Iterable[str], pattern: str) -> int:
    """How many numbers layers have; a gap shows as missing keys later."""
    found = (re.match(pattern, key) for key in state)
    return len({match[1] for match in found if match})


def with_heads(path: Path, sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes with the heads that BLIP has: 64 wide, in ViT-B, ViT-L and BERT alike."""
    problems = [
        f"{side}_width: {sizes[f'{side}_width']} is not a multiple of {HEAD_WIDTH}, the width of "
        "each of BLIP's heads"
        for side in ("vision", "text")
        if sizes[f"{side}_width"] % HEAD_WIDTH
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise WeightsError(f"{path}: the number of heads cannot be told\n  {listed}")
    heads = {f"{side}_heads": sizes[f"{side}_width"] // HEAD_WIDTH for side in ("vision", "text")}
    return sizes | heads


def read_config(path: Path) -> dict[str, Any]:
    """What config.json says. WeightsError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: needed beside the weights ({error})") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a table, got a {type(content).__name__}")
    return content


def sizes_in_config(
    path: Path, config: dict[str, Any], sizes: dict[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The sizes with the heads that config.json names, and notes on where it differs from BLIP.

    transformers' configurations name 8 heads of the text encoder unless told otherwise, and older
    ones did so for BLIP's own weights, which have 12. Such a file is not believed.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    expect_right_types(path, {"vision_config": vision, "text_config": text})
    text_heads = text.get("num_attention_heads", DEFAULT_TEXT_HEADS)
    if text_heads == DEFAULT_TEXT_HEADS != sizes["text_width"] // HEAD_WIDTH:
        raise WeightsError(
            f"{path}: config.json gives the text encoder {text_heads} heads, transformers' default;"
            f" BLIP's are {HEAD_WIDTH} wide, {sizes['text_width'] // HEAD_WIDTH} for a width of "
            f"{sizes['text_width']}\n"
            "  Set text_config.num_attention_heads to what these weights were trained with."
        )
    for side, table in (("vision", vision), ("text", text)):
        if table.get("hidden_act", "gelu") != "gelu":
            raise WeightsError(
                f"{path}: config.json says {side}_config.hidden_act {table['hidden_act']!r}; "
                "BLIP's is 'gelu', and the model has no other"
            )
    vision_heads = vision.get("num_attention_heads", DEFAULT_VISION_HEADS)
    notes = [
        f"config.json says {side}_config.layer_norm_eps {found:g}; BLIP's {blips:g} is used"
        for side, table, blips, default in (
            ("vision", vision, 1e-6, 1e-5),
            ("text", text, 1e-12, 1e-12),
        )
        if (found := table.get("layer_norm_eps", default)) != blips
    ]
    return sizes | {"vision_heads": vision_heads, "text_heads": text_heads}, tuple(notes)


def expect_right_types(path: Path, tables: dict[str, Any]) -> None:
    """Raise WeightsError that lists what config.json's two tables hold of other types."""
    problems = []
    for name, table in tables.items():
        if not isinstance(table, dict):
            problems.append(f"{name}: expected a table, got {table!r}")
            continue
        heads, eps = table.get("num_attention_heads", 1), table.get("layer_norm_eps", 0.0)
        if type(heads) is not int or heads < 1:
            problems.append(f"{name}.num_attention_heads: expected a whole number, got {heads!r}")
        if type(eps) not in (int, float):
            problems.append(f"{name}.layer_norm_eps: expected a number, got {eps!r}")
    if problems:
        listed = "\n  ".join(problems)
        raise WeightsError(f"{path}: config.json is damaged\n  {listed}")


def save_blip(path: Path, state: dict[str, Tensor], config: LiteVLConfig) -> str:
    """Write tensors in half precision under BLIP's names; returns the file's sha256."""
    sizes = {name: value for name, value in asdict(config).items() if name in SIZES}
    halves = {key: tensor.detach().half().contiguous().clone() for key, tensor in state.items()}
    write_bytes(path, save(halves, metadata={"sizes": json.dumps(sizes)}))
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """Checksum of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combined_sha256(files: list[Path]) -> str:
    """Checksum of one file, or of the lines `checksum  name` of several, as sha256sum prints."""
    if len(files) == 1:
        return file_sha256(files[0])
    lines = "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
