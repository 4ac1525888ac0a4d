"""Ways to damage text, bytes and plain values; all of them drawn from a generator."""

import copy
import functools
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG = 100_000  # characters
DEEP = 3000  # levels; Python's parsers give up at about 1000

# Strings that have broken programs: markup, paths, commands, letters that are not what they seem.
STRINGS = (
    "", " ", "\0", "a\0b", "\n", "\r\n", "\t", "\x1b[2J\x1b]0;title\x07", "\x7f", "\u0085",
    "\u2028", "\u202e\u2066gnp.exe", "\ufeff", "\ufffd", "\U0001f600", "e\u0301" * 9,
    "\u0130\u0131\u017f", "\u0661\u0662\u0663", "\u00b2", "..", "../../../../etc/passwd",
    "/etc/passwd", "/dev/zero", "/dev/stdin", "C:\\Windows\\system.ini", "\\\\host\\share", "~",
    "~root/.ssh/id_rsa", "file:///etc/passwd", "http://127.0.0.1:9/", "hub:../..", "hub:a/b@..",
    "blip:nothing", "$(touch canary)", "`touch canary`", "; touch canary #", "| touch canary",
    "{{7*7}}", "{% include '/etc/passwd' %}", "%s%n%x", "{0.__class__}",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)",
    "]](javascript:alert(1))", "&lt;", "</style><script>", "-->", "]]>", "```\n# title",
    "\\input{/etc/passwd}", "$x$", "^^M", "'", '"', "nan", "inf", "-0", "1e999", "true", "null",
    "None", "__proto__", "video" + "9" * 400, "CON", "." * 300, "x" * 300,
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63) - 1, 2**64, 10**40, 0.0, -0.0, 0.5, 1.0, -1.5, 1e-320, 5e-324, 1e300, 1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any plain value, of any type."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(STRINGS)
    if kind < 5:
        return rng.choice(NUMBERS)
    if kind == 5:
        return rng.choice([None, True, False])
    if depth > 2:
        return []
    inside = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return inside if kind == 6 else {str(rng.choice(STRINGS)): one for one in inside}


def nest(rng: random.Random) -> Any:
    """A list or a table in a list or a table, many times."""
    inside: Any = 1
    is_list = rng.random() < 0.5
    for _ in range(rng.choice([20, 90])):  # json.dumps gives up where json.loads does
        inside = [inside] if is_list else {"a": inside}
    return inside


def _places(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key or index) of a tree."""
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            found.append((tree, key))
            _places(tree[key], found)
    return found


def tree(content: Any, rng: random.Random, changes: int | None = None) -> Any:
    """A copy of a JSON value with a few things changed, taken out, doubled, moved or renamed."""
    content = copy.deepcopy(content)
    for _ in range(changes or rng.choice([1, 1, 1, 2, 3, 8])):
        places = _places(content, [])
        if not places:
            return value(rng)
        holder, key = rng.choice(places)
        change = rng.randrange(9)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif change == 2 and isinstance(holder, dict):
            holder[rng.choice([*map(str, STRINGS), f"{key}s", str(key).upper()])] = holder.pop(key)
        elif change == 3:
            other, its_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[its_key])  # a value of another type, from elsewhere
        elif change == 4 and isinstance(holder[key], str):
            holder[key] = text(holder[key], rng)
        elif change == 5 and isinstance(holder[key], int | float):
            holder[key] = rng.choice(NUMBERS)
        elif change == 6:
            holder[key] = nest(rng) if rng.random() < 0.2 else value(rng)
        elif change == 7 and isinstance(holder[key], str):
            holder[key] = rng.choice(STRINGS)
        else:
            holder[key] = value(rng)
    return content


def text(content: str, rng: random.Random) -> str:
    """A text with something put in, cut out, doubled or moved."""
    at, to = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    what = rng.randrange(7)
    if what == 0:
        return content[:at]
    if what == 1:
        return content[:at] + content[to:]
    if what == 2:
        return content[:to] + content[at:]
    if what == 3:
        return content[:at] + rng.choice(STRINGS) + content[at:]
    if what == 4:
        return content[:at] + rng.choice("[]{}\"'=#,.:\\\n\0-") + content[at:]
    if what == 5:
        return content[:at] + rng.choice("[{(") * rng.choice([3, DEEP]) + content[at:]
    return content[:at] + rng.choice("x9 ") * LONG + content[at:]


def lines(content: str, rng: random.Random) -> str:
    """A text with lines taken out, doubled, swapped or put in from elsewhere in it."""
    rows = content.split("\n")
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, other = rng.randrange(len(rows)), rng.randrange(len(rows))
        what = rng.randrange(4)
        if what == 0 and len(rows) > 1:
            del rows[at]
        elif what == 1:
            rows.insert(at, rows[other])
        elif what == 2:
            rows[at], rows[other] = rows[other], rows[at]
        else:
            rows[at] = text(rows[at], rng)
    return "\n".join(rows)


def flip(content: bytes, rng: random.Random) -> bytes:
    """Some bits turned, most often near the start or the end, where headers are."""
    damaged = bytearray(content or b"\0")
    near = rng.choice([64, 512, len(damaged)])
    for _ in range(rng.choice([1, 1, 3, 10, 100])):
        at = min(rng.randrange(near), len(damaged) - 1)
        damaged[at if rng.random() < 0.5 else -1 - at] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(content: bytes, rng: random.Random) -> bytes:
    """The start of it, without some of the middle, or with more behind it."""
    at, to = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice([content[:at], content[:at] + content[to:], content + content[at:to], b""])


def swap(content: bytes, rng: random.Random) -> bytes:
    """Some bytes replaced: by noise, zeros, largest numbers or a byte order mark."""
    at = rng.randrange(len(content) + 1)
    size = rng.choice([1, 2, 4, 8, 200])
    new = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size, b"\xff\xfe", b"\xed\xa0"])
    return content[:at] + new + content[at + len(new) :]


BYTE_DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, cut, swap)


def any_bytes(content: bytes, rng: random.Random) -> bytes:
    """One of the three."""
    return rng.choice(BYTE_DAMAGE)(content, rng)


def rezip(
    content: bytes, change: Callable[[str, bytes], tuple[str, bytes]], compressed: bool = False
) -> bytes:
    """An archive with each member's name and bytes passed through a function."""
    out = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(out, "w", how) as new,
    ):
        for info in old.infolist():
            name, inside = change(info.filename, old.read(info))
            new.writestr(name, inside)
    return out.getvalue()


@functools.cache
def bomb(num_bytes: int, name: str = "bomb.json", start: bytes = b"") -> bytes:
    """An archive whose one member unpacks to less than 4 GiB of zeros, after its start.

    The same compressed block of a MiB stands there again and again: packing all would take long.
    """
    packer, mib, repeats = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 20), num_bytes >> 20
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(mib) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it
    packed = head + block * repeats + packer.flush()
    crc = zlib.crc32(start)
    for _ in range(repeats):
        crc = zlib.crc32(mib, crc)
    label, size = name.encode(), len(start) + (repeats << 20)
    entry = struct.pack("<5H3I2H", 20, 0, 8, 0, 33, crc, len(packed), size, len(label), 0)
    local = b"PK\x03\x04" + entry + label
    central = b"PK\x01\x02\x14\0" + entry + struct.pack("<3H2I", 0, 0, 0, 0, 0) + label
    counts = struct.pack("<4H2IH", 0, 0, 1, 1, len(central), len(local + packed), 0)
    return local + packed + central + b"PK\x05\x06" + counts


def one_of(folder: Path, rng: random.Random, pattern: str = "*") -> Path:
    """A file below a folder."""
    files = [path for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink()]
    return rng.choice(sorted(files))
