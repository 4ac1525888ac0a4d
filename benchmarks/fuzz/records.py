"""Damaged records, arrays, strips and plans through the reading functions and `litevl report`."""

import contextlib
import io
import json
import os
import pickle
import random
import re
import shutil
import zipfile
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.fuzz import damage
from benchmarks.fuzz.workers import Kind, try_all
from litevl.cli import main
from litevl.record import read_arrays, read_plan, read_record, read_strips
from litevl.report import figures
from litevl.report.figures import Group, Picture

BOMB_BYTES = 2 << 30
SHARE_DRAWN = 0.1  # pages of the others have their figures' words only: less time
TAGS = {
    "a", "article", "body", "code", "details", "div", "figcaption", "figure", "footer", "form",
    "h1", "h2", "h3", "head", "header", "html", "img", "input", "label", "li", "link", "main",
    "meta", "nav", "ol", "output", "p", "pre", "script", "section", "small", "span", "strong",
    "style", "summary", "table", "tbody", "td", "th", "thead", "title", "tr", "ul", "wbr",
}  # fmt: skip
STYLES = re.compile(
    r"height: \d+%|background-image: url\(data:image/png;base64,[A-Za-z0-9+/=]+\); "
    r"background-size: calc\(100% / \d+\) 100%"
)


class Canary:
    """Unpickled, it leaves a file in the working directory."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("canary", "w")


def damage_records(seeds: Path, folder: Path, rng: random.Random) -> str:
    """Damage a few files of one study, or of two: then there is a page of both."""
    names = rng.choice([["msrvtt"], ["msvd-qa"], ["msrvtt", "msvd-qa"]])
    for name in names:
        shutil.copytree(seeds / "records" / name, folder / "records" / name)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        file = damage.one_of(folder / "records", rng)
        try:
            way = damage_file(file, rng)
        except Exception as error:  # damaged before, beyond what the way asked for can do
            way = f"bytes ({type(error).__name__})"
            file.write_bytes(damage.any_bytes(file.read_bytes(), rng))
        done.append(f"{file.name}: {way}")
    return ", ".join(done)


def damage_file(file: Path, rng: random.Random) -> str:
    """Damage one file; returns how."""
    if file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        way = rng.choice(["tree"] * 5 + ["one string"] * 3 + ["every string", "text", "bytes"])
        if way == "every string":
            content = every_string(content, rng.choice(damage.STRINGS))
        elif way == "one string":
            content = one_string(content, rng)
        else:
            content = damage.tree(content, rng)
        text = json.dumps(content)
        text = damage.text(text, rng) if way == "text" else text
        raw = text.encode("utf-8", "surrogatepass")
        file.write_bytes(damage.any_bytes(raw, rng) if way == "bytes" else raw)
        return way
    way = rng.choice(["bytes", "arrays", "arrays", "arrays", "values", "values", "npy", "zip"])
    if way == "bytes":
        file.write_bytes(damage.any_bytes(file.read_bytes(), rng))
    elif way == "zip":
        file.write_bytes(damage_archive(file.read_bytes(), rng))
    elif way == "npy":
        raw = file.read_bytes()
        file.write_bytes(damage.rezip(raw, lambda name, inside: (name, damage_npy(inside, rng))))
    else:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        key = rng.choice(sorted(arrays))
        if way == "values":
            arrays[key] = other_values(arrays[key], rng)
        else:
            change_arrays(arrays, key, rng)
        out = io.BytesIO()
        np.savez_compressed(out, **arrays)
        file.write_bytes(out.getvalue())
    return way


def every_string(content: object, by: str) -> object:
    """A JSON value with each of its texts, but not keys, replaced."""
    if isinstance(content, dict):
        return {key: every_string(one, by) for key, one in content.items()}
    if isinstance(content, list):
        return [every_string(one, by) for one in content]
    return by if isinstance(content, str) else content


def one_string(content: object, rng: random.Random) -> object:
    """A JSON value with the texts under a few keys replaced."""
    keys = ("title", "note", "sentence", "error", "command", "profile_reason", "notes", "source")
    chosen, by = {rng.choice(keys), rng.choice(keys)}, rng.choice(damage.STRINGS)

    def go(one: object, key: str) -> object:
        if isinstance(one, dict):
            return {name: go(below, name) for name, below in one.items()}
        if isinstance(one, list):
            return [go(below, key) for below in one]
        return by if isinstance(one, str) and key in chosen else one

    return go(content, "")


def other_values(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """The same shape and kind of values, others in some places."""
    array = array.copy()
    flat = array.reshape(-1)
    for _ in range(rng.choice([1, 3, flat.size])):
        if not flat.size:
            break
        at = rng.randrange(flat.size)
        if array.dtype.kind == "U":
            array = array.astype("U400")
            flat = array.reshape(-1)
            flat[at] = rng.choice(damage.STRINGS)
        elif array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            flat[at] = rng.choice(
                [limits.min, limits.max, 0, min(1, limits.max), min(99, limits.max)]
            )
        elif array.dtype.kind == "f":
            flat[at] = rng.choice([np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0, 2.0, 5e-324])
        else:
            flat[at] = not flat[at]
    return array


def change_arrays(arrays: dict[str, np.ndarray], key: str, rng: random.Random) -> None:
    """One array missing, renamed, of another type or shape, without content, or one of objects."""
    array, change = arrays[key], rng.randrange(8)
    if change == 0:
        del arrays[key]
    elif change == 1:
        arrays[rng.choice(["x", "../../canary", "answer_list", "top", "\u00e9"])] = arrays.pop(key)
    elif change == 2:
        kind = rng.choice(["f8", "f2", "i8", "u1", "c16", "U5", "S5", "M8[s]", "?", ">i4"])
        arrays[key] = np.zeros(array.shape, kind)
    elif change == 3:
        arrays[key] = array[: rng.randrange(len(array) + 1)] if array.ndim else array
    elif change == 4:
        arrays[key] = array[None]
    elif change == 5:
        arrays[key] = np.zeros(rng.choice([(), (0,), (0, 2), (0, 0, 0, 0, 0, 0, 3)]), array.dtype)
    elif change == 6:
        arrays[key] = np.array([Canary(), None], dtype=object)
    else:
        for name, one in arrays.items():  # every array without a single entry
            arrays[name] = one[:0] if one.ndim else one


def damage_npy(content: bytes, rng: random.Random) -> bytes:
    """An array's header that claims something else, or a pickle in place of its values."""
    way = rng.randrange(6)
    if way == 0:
        return pickle.dumps(Canary())
    if way == 1:
        return damage.any_bytes(content, rng)
    shape = rng.choice(
        [b"(99999999999, 9999)", b"(-1,)", b"(2, 2)", b"(True,)", b"(" * 60 + b"1", b"()"]
    )
    kind = rng.choice(
        [b"'|O'", b"'<f8'", b"'<U9999999'", b"[('a', '<f8')]", b"'<V8'", b"'__import__'"]
    )
    header = b"{'descr': %s, 'fortran_order': False, 'shape': %s, }" % (kind, shape)
    header = header.ljust(max(118, len(header) + 1)) + b"\n"
    start = content[:6] + rng.choice([b"\x01\x00", b"\x01\x00", b"\x03\x00", b"\x09\x09"])
    return (
        start + len(header).to_bytes(2, "little") + header + content[128:] + pickle.dumps(Canary())
    )


def damage_archive(content: bytes, rng: random.Random) -> bytes:
    """An archive with other members, sizes or bytes."""
    way = rng.randrange(4)
    if way == 0:
        header = (
            b"\x93NUMPY\x01\x00\x76\x00"
            + (
                b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % (BOMB_BYTES - 128)
            ).ljust(117)
            + b"\n"
        )
        return damage.bomb(BOMB_BYTES, "captions.npy", header)
    if way == 1:
        return damage.rezip(content, lambda name, inside: (f"../{name}", inside))
    if way == 2:
        return damage.rezip(content, lambda name, _: (name, content))
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a") as archive:
        for number in range(rng.choice([1, 3000])):
            archive.writestr(f"x{number}.npy", b"")
    return out.getvalue()


class Tags(HTMLParser):
    """Which elements and attributes of scripts or addresses a page has, besides its own."""

    def __init__(self) -> None:
        super().__init__()
        self.strange: list[str] = []
        self.num_scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.num_scripts += tag == "script"
        if tag not in TAGS or self.num_scripts > 1:
            self.strange.append(f"<{tag}>")
        for name, value in attrs:
            if (tag, name, value) == ("link", "href", "data:,"):
                continue
            if name == "style" and not STYLES.fullmatch(value or ""):
                self.strange.append(f"{name}={value!r}")
            is_address = name in ("href", "src") and (value or "").strip().lower()
            looks_outside = is_address and (":" in is_address or is_address.startswith("/"))
            if name.startswith("on") or name == "srcdoc" or looks_outside:
                self.strange.append(f"{name}={value!r}")


def not_drawn(stem: str, group: Group, caption: str, alt: str, *_: object) -> Picture:
    """In the place of `litevl.report.figures.draw`."""
    return Picture(stem, group, caption, alt, b"", 1, 1)


def read_records(folder: Path, rng: random.Random) -> None:
    """Read each file by itself, then render all pages; no element comes from a record."""
    for path in sorted((folder / "records").rglob("*.json")):
        reads = (
            (read_plan,)
            if path.name.endswith(".plan.json")
            else (read_record, read_arrays, read_strips)
        )
        try_all(*(partial(read, path) for read in reads), quiet=True)
    output = folder
    is_drawn = rng.random() < SHARE_DRAWN
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(os, "fsync"))  # nothing here is to last
        if not is_drawn:
            stack.enter_context(mock.patch.object(figures, "draw", not_drawn))
        code = main(["report", str(output)])
    assert code in (0, 1, 2), code
    for page in sorted(folder.glob("*/index.html")):
        tags = Tags()
        tags.feed(page.read_text(encoding="utf-8"))
        assert not tags.strange, tags.strange


def warm_up(seeds: Path, folder: Path) -> None:
    """Render whole studies."""
    shutil.copytree(seeds / "records", folder / "records")
    read_records(folder, random.Random(0))


RECORDS = Kind("records", damage_records, read_records, warm_up)
