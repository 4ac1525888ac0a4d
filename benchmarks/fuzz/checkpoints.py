"""Damaged checkpoints of every layout through all that loads them."""

import contextlib
import json
import os
import pickle
import pickletools
import random
import shutil
import struct
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from benchmarks.fuzz import damage
from benchmarks.fuzz.workers import Kind, try_all
from litevl.engine.checkpoint import read_checkpoint
from litevl.errors import LiteVLError
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.tokenizer import Tokenizer
from litevl.model.weights import load_blip

PICKLED = (".pth", ".bin", ".pt")
STILL: dict[str, Any] = {
    "temporal_attention": False, "time_embedding": "none", "scaling": "none", "num_frames": 1,
    "pooling": "concat",
}  # fmt: skip
BOMB_BYTES = 2 << 30


class Hostile:
    """Unpickled, it runs something that leaves a canary in the working directory."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


def hostile(rng: random.Random) -> Hostile:
    """One way to run code."""
    code = "open('canary', 'w').close()"
    return rng.choice(
        [
            Hostile(os.system, "touch canary"),
            Hostile(os.mkdir, "canary"),
            Hostile(eval, code),
            Hostile(exec, code),
            Hostile(open, "canary", "w"),
            Hostile(torch.load, "canary"),
            Hostile(torch.hub.load, "canary"),
            Hostile(getattr, os, "system"),
            Hostile(torch.save, 1, "canary"),
        ]
    )


def damage_checkpoint(seeds: Path, folder: Path, rng: random.Random) -> str:
    """Damage a file of one layout's folder."""
    source = rng.choice(sorted((seeds / "checkpoints").iterdir()))
    root = folder / source.name
    shutil.copytree(source, root)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        files = sorted(path for path in root.iterdir() if path.is_file() and path.suffix != ".md")
        weights = [path for path in files if path.suffix in (*PICKLED, ".safetensors")]
        file = rng.choice([*files, *weights, *weights])
        try:
            way = damage_file(file, rng)
        except Exception as error:  # damaged before, beyond what the way asked for can do
            way = f"bytes ({type(error).__name__})"
            file.write_bytes(damage.any_bytes(file.read_bytes(), rng))
        done.append(f"{file.name}: {way}")
    if rng.random() < 0.05:
        note = root / f"{damage.one_of(root, rng).name}.sha256"
        note.write_bytes(rng.choice([b"", b"\xff", b"0" * 64 + b"  x", b"\0", b"\n\n"]))
    return f"{source.name}: " + ", ".join(done)


def damage_file(file: Path, rng: random.Random) -> str:
    """Damage one file; returns how."""
    if file.suffix == ".json":
        content = damage.tree(json.loads(file.read_text(encoding="utf-8")), rng)
        file.write_text(json.dumps(content), encoding="utf-8")
        return "tree"
    if file.suffix == ".txt":
        text = file.read_text(encoding="utf-8")
        file.write_text(rng.choice([damage.lines, damage.text])(text, rng), encoding="utf-8")
        return "text"
    way = rng.choice(["bytes", "tensors", "tensors", "format", "format"])
    if way == "bytes":
        file.write_bytes(damage.any_bytes(file.read_bytes(), rng))
    elif way == "tensors":
        write_tensors(file, damage_tensors(read_tensors(file), rng), rng)
    elif file.suffix == ".safetensors":
        file.write_bytes(damage_safetensors(file.read_bytes(), rng))
    else:
        way = damage_pickled(file, rng)
    return way


def read_tensors(file: Path) -> Any:
    """What a whole file holds."""
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def write_tensors(file: Path, content: Any, rng: random.Random) -> None:
    """Write a file again in its own format; safetensors keep what the file says of its sizes."""
    if file.suffix == ".safetensors":
        with file.open("rb") as old:
            (size,) = struct.unpack("<Q", old.read(8))
            metadata = json.loads(old.read(size)).get("__metadata__")
        file.write_bytes(save(content, metadata))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.7)


def damage_tensors(content: Any, rng: random.Random) -> Any:
    """Tensors missing, renamed, swapped, of another shape or type, with NaN or without content."""
    holder = content.get("model") if isinstance(content.get("model"), dict) else content
    for _ in range(rng.choice([1, 1, 2, 10])):
        key, other = rng.choice(sorted(holder, key=str)), rng.choice(sorted(holder, key=str))
        tensor = holder[key] if isinstance(holder[key], torch.Tensor) else torch.zeros(2)
        change = rng.randrange(9)
        if change == 0:
            del holder[key]
        elif change == 1:
            holder[f"{key}{rng.choice(damage.STRINGS)}".replace("\0", "")] = holder.pop(key)
        elif change == 2:
            holder[key], holder[other] = holder[other], holder[key]
        elif change == 3:
            holder[key] = tensor.flatten()[: rng.randrange(tensor.numel() + 1)].clone()
        elif change == 4:
            kinds = [torch.int64, torch.bool, torch.float64, torch.float16, torch.complex64]
            holder[key] = tensor.to(rng.choice([*kinds, torch.float8_e4m3fn, torch.bfloat16]))
        elif change == 5:
            holder[key] = torch.full_like(tensor, rng.choice([float("nan"), float("inf")]).real)
        elif change == 6:
            holder[key] = tensor[None].clone()
        elif change == 7:
            holder[key] = torch.zeros(rng.choice([(), (0,), (0, 3), (1, 1, 1, 1, 1)]))
        else:
            holder[key] = torch.zeros(1).expand(rng.choice([2, 500])).clone()
    return content


def damage_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Another header over the same bytes."""
    (size,) = struct.unpack("<Q", content[:8])
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    way = rng.randrange(6)
    if way == 0:
        claimed = rng.choice([0, 1, size - 1, size + 1, len(content), 2**40, 2**63, 2**64 - 1])
        return struct.pack("<Q", claimed) + content[8:]
    if way == 1:
        entry = header[rng.choice(sorted(header))]
        entry["data_offsets"] = [rng.choice(damage.NUMBERS[:14]), rng.choice(damage.NUMBERS[:14])]
    elif way == 2:
        header[rng.choice(sorted(header))]["shape"] = [2**40, rng.choice([1, 2**40])]
    elif way == 3 and "sizes" in header.get("__metadata__", {}):
        sizes = damage.tree(json.loads(header["__metadata__"]["sizes"]), rng)
        header["__metadata__"]["sizes"] = json.dumps(sizes)
    elif way == 4:
        header["__metadata__"] = rng.choice([{}, {"sizes": "{}"}, {"format": "tf"}, [], None])
    else:
        header = damage.tree(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def damage_pickled(file: Path, rng: random.Random) -> str:
    """Code to run in it, pickle opcodes damaged, or an archive that is not what it seems."""
    content, way = file.read_bytes(), rng.randrange(7)
    is_zip = content[:2] == b"PK"
    if way <= 2 or not is_zip:
        holder = read_tensors(file)
        places = [holder, *[each for each in holder.values() if isinstance(each, dict)]]
        rng.choice(places)[rng.choice(["model", "config", "x", 0, (1, 2)])] = hostile(rng)
        if rng.random() < 0.3:
            plain = {"model": hostile(rng), "weight": 1}
            file.write_bytes(pickle.dumps(plain, protocol=rng.randrange(6)))
            return "hostile bare pickle"
        torch.save(holder, file, _use_new_zipfile_serialization=rng.random() < 0.6)
        return "hostile"

    def change(name: str, inside: bytes) -> tuple[str, bytes]:
        if name.endswith("data.pkl") and way == 3:
            return name, damage_opcodes(inside, rng)
        if way == 4 and rng.random() < 0.2:
            return rng.choice(["../../canary", "/tmp/canary", f"{name}\0", name.upper()]), inside
        if way == 5 and rng.random() < 0.3:
            return name, rng.choice([b"", inside[:3], content[:1000]])
        return name, inside

    if way == 6:
        file.write_bytes(damage.bomb(BOMB_BYTES, "archive/data.pkl", b"\x80\x02]q\x00"))
        return "bomb"
    file.write_bytes(damage.rezip(content, change, compressed=rng.random() < 0.3))
    return f"archive, way {way}"


def damage_opcodes(content: bytes, rng: random.Random) -> bytes:
    """A pickle with an argument changed, or an instruction taken out, doubled or put elsewhere."""
    places = [at for _, _, at in pickletools.genops(content) if at is not None]
    spans = list(zip(places, [*places[1:], len(content)], strict=True))
    parts = [content[start:end] for start, end in spans]
    for _ in range(rng.choice([1, 2, 5])):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        what = rng.randrange(4)
        if what == 0:
            parts[at] = b""
        elif what == 1:
            parts[at] += parts[other]
        elif what == 2:
            parts[at] = rng.choice(
                [b"K\xff", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"N", b")"]
            )
        else:
            parts[at] = damage.swap(parts[at], rng)
    return b"".join(parts)


def read_checkpoints(folder: Path, _: random.Random) -> None:
    """Load it as both models, for a run that goes on, and with its vocabulary."""
    (root,) = (path for path in folder.iterdir() if path.is_dir())
    models = (LiteVLForRetrieval, LiteVLForQuestionAnswering)
    vocabulary = partial(read_vocabulary, root / "vocab.txt")
    if root.name == "run":
        cpu = torch.device("cpu")
        try_all(*(partial(read_checkpoint, root / name, cpu) for name in ("last.pt", "best.pt")))
    elif root.name in ("retrieval", "questions"):
        model = models[root.name == "questions"]
        try_all(partial(model.from_pretrained, str(root)), vocabulary)
    else:
        files = sorted(path for path in root.iterdir() if path.suffix in (".pth", ".safetensors"))
        source = files[0] if root.name in ("zip", "legacy", "litevl") and files else root
        try_all(*(partial(load_blip, model, source, **STILL) for model in models), vocabulary)


def read_vocabulary(path: Path) -> None:
    """Make a tokenizer of it and use it."""
    Tokenizer.from_vocabulary(path)(["a red disc"], 16)


def warm_up(seeds: Path, folder: Path) -> None:
    """Load one whole checkpoint of each kind."""
    for name in ("zip", "transformers", "run", "retrieval"):
        place = folder / name
        shutil.copytree(seeds / "checkpoints" / name, place / name)
        with contextlib.suppress(LiteVLError):  # for question answering, transformers' lack parts
            read_checkpoints(place, random.Random(0))


CHECKPOINTS = Kind("checkpoints", damage_checkpoint, read_checkpoints, warm_up)
