"""Damaged reproduction files through `litevl check`, `plan` and `run`, and how they are made."""

import json
import random
import re
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.fuzz import damage
from benchmarks.fuzz.workers import Kind
from litevl.cli import main
from litevl.errors import SpecError
from litevl.plan import plan
from litevl.spec import PROFILES, load_spec

FILE = "spec.toml"
VALUE = re.compile(r"(?m)^(\s*[\w.\"-]+\s*=\s*)(.+)$")
SHARE_ESTIMATED = 0.003  # of the specs that are right: estimating costs takes seconds


def damage_spec(seeds: Path, folder: Path, rng: random.Random) -> str:
    """Damage one of the shipped files as a table, as lines, as text or as bytes."""
    source = damage.one_of(seeds / "specs", rng, "*.toml")
    text = source.read_text(encoding="utf-8")
    way = rng.choice(["table"] * 4 + ["value"] * 3 + ["lines", "text", "bytes"])
    if way == "table":
        new = as_toml(damage.tree(tomllib.loads(text), rng))
    elif way == "value":
        for _ in range(rng.choice([1, 1, 2, 5])):
            some = list(VALUE.finditer(text))
            match = rng.choice(some)
            text = text[: match.start(2)] + toml_value(rng) + text[match.end(2) :]
        new = text
    elif way == "lines":
        new = damage.lines(text, rng)
    else:
        new = damage.text(text, rng)
    content = new.encode("utf-8", "surrogatepass")
    content = damage.any_bytes(text.encode(), rng) if way == "bytes" else content
    (folder / FILE).write_bytes(content)
    return f"{source.name}, {way}"


def toml_value(rng: random.Random) -> str:
    """A value, not always one that TOML has."""
    return rng.choice(
        [
            _value(damage.value(rng)),
            _value(damage.value(rng)),
            "9" * rng.choice([20, 5000]),
            "[" * rng.choice([5, damage.DEEP]) + "]" * 5,
            rng.choice(["1979-05-27T07:32:00Z", "07:32:00", "0x" + "f" * 40, "1_000", "+inf"]),
            f'"{rng.choice(damage.STRINGS)}"',
            "'''\n" + "x\n" * 1000 + "'''",
        ]
    )


def as_toml(table: Any) -> str:
    """Tables as TOML, every value inline under its key: `tomllib` reads and does not write."""
    if not isinstance(table, dict):
        return f"value = {_value(table)}\n"
    return "".join(f"{_key(key)} = {_value(content)}\n" for key, content in table.items())


def _key(key: Any) -> str:
    return json.dumps(str(key)).replace("\x7f", "\\u007f")


def _value(content: Any) -> str:
    if isinstance(content, dict):
        inside = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in content.items())
        return f"{{{inside}}}"
    if isinstance(content, list | tuple):
        return f"[{', '.join(map(_value, content))}]"
    if isinstance(content, bool):
        return str(content).lower()
    if isinstance(content, str):
        return _key(content)
    if content is None:
        return "{}"
    return repr(content)


def read_spec(folder: Path, rng: random.Random) -> None:
    """Check it, and where it is right plan it, as a user would, every variant of both profiles."""
    file = str(folder / FILE)
    if main(["check", file, *rng.choice([[], ["--json"]])]) != 0:
        raise SpecError("told")
    spec = load_spec(folder / FILE)
    for profile in PROFILES:
        plan(spec, profile, [], [], None, None)
    names = [start.name for start in spec.start]
    ways = [["plan", file], ["plan", file, "--profile", "mini", "--json"]]
    ways += [["plan", file, "--start", name] for name in names[:1]]
    ways += [["run", file, "--profile", "paper", "--output", str(folder / "out")]]
    main(rng.choice(ways))
    if rng.random() < SHARE_ESTIMATED:
        main(["plan", file, "--profile", "paper", "--variant", spec.variant[-1].name])


def warm_up(seeds: Path, folder: Path) -> None:
    """Check and plan a whole spec."""
    file = str(next((seeds / "specs").glob("*.toml")))
    main(["check", file])
    main(["plan", file, "--output", str(folder / "out")])


SPECS = Kind("specs", damage_spec, read_spec, warm_up)
