"""The shipped reproduction files as text to be edited, and what is then wrong with them."""

from pathlib import Path

from litevl.errors import SpecError
from litevl.spec import load_spec

SHIPPED = Path(__file__).parent.parent / "reproductions"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(SHIPPED.glob("*.toml"))}
TEXT = TEXTS["msrvtt"]


def edited(*edits: tuple[str, str], text: str = TEXT) -> str:
    """A real file with each old text, which has to occur, replaced once."""
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def set_in(table: str, key: str, value: str | None, text: str = TEXT) -> tuple[str, str]:
    """The edit that gives a key of a table another value, whatever it has now; None removes it."""
    start = text.index(f"[{table}]\n")
    line = text.index(f"\n{key} = ", start) + 1
    end = text.index("\n", line) + 1
    assert "\n[" not in text[start:line], f"{table} has no {key}"
    old = text[start:end]
    return old, text[start:line] + (f"{key} = {value}\n" if value is not None else "")


def problem_lines(folder: Path, text: str | bytes) -> list[str]:
    """The lines of the SpecError that a file gives, without the first; none if it is right."""
    path = folder / "spec.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        load_spec(path)
    except SpecError as error:
        first, *lines = str(error).split("\n")
        assert first.startswith(f"{path}: ")
        return [line.removeprefix("  ") for line in lines] or [first]
    return []
