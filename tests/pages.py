"""What the tests of reports read back: a page's tags, links and text, its tables, its folder."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The tags, links and text of a page; fails on tags that do not nest."""

    VOID = frozenset({"meta", "link", "img", "input", "wbr", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    @property
    def files(self) -> list[str]:
        """The links to other files, without the places in them."""
        inside = [link for link in self.links if not link.startswith(("#", "data:"))]
        return [link.partition("#")[0] for link in inside]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def section(path: Path, name: str) -> str:
    """The source of one section of a page, line ends and break hints removed."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', path.read_text(), re.DOTALL)
    return re.sub(r"\s+", " ", found[1].replace("<wbr>", "")) if found else ""


def read_csv(page: Path, name: str) -> list[dict[str, str]]:
    with (page.parent / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
