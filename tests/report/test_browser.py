"""The pages in a real browser: nothing missing, nothing from elsewhere, fit for every reader."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from all_records import write_all_studies
from records import make_strips, run_id

from litevl.record import read_arrays, read_record, write_record
from litevl.report.page import render_all

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path"),
]
PAGES = ("msrvtt-mini", "msvd-qa-mini", "combined-mini", "msrvtt-paper")
# axe takes seconds: every page has each width and each scheme, one page all pairs of them.
LOOKS = [
    *((name, *look) for name in PAGES for look in ((390, "light"), (1280, "dark"))),
    *(("msvd-qa-mini", *look) for look in ((390, "dark"), (1280, "light"))),
]
# No sandbox: as root Chromium has none. The others keep it from looking for its own servers.
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
HOSTILE = '<script>document.title = "taken"</script><img src=x onerror=alert(1)>'
FOCUSED = """() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  return [one === document.body ? null : one.outerHTML.slice(0, 300),
          parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== "none"];
}"""
REACHABLE = """() => [...document.querySelectorAll(
  "a[href], input, summary, [tabindex='0']")].filter((one) => one.checkVisibility())
  .map((one) => one.outerHTML.slice(0, 300))"""
MISSING = """async () => {
  const found = [];
  for (const one of document.images) {
    one.loading = "eager";
    try { await one.decode(); } catch { found.push(one.src); }
    if (one.naturalWidth === 0 || !one.getAttribute("alt")) found.push(one.src);
  }
  return found;
}"""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of all four, and one of the paper profile, with markup in a caption."""
    folder = tmp_path_factory.mktemp("reports")
    write_all_studies(folder / "records", seeds=(0, 1))
    write_all_studies(folder / "records", ["full", "no-scaling"], profile="paper")
    path = folder / "records" / "msrvtt" / f"{run_id('full', 0)}.json"
    arrays = read_arrays(path)
    arrays["captions"] = np.array([HOSTILE] * len(arrays["captions"]))
    write_record(path.parent, read_record(path), arrays, make_strips(arrays))
    render_all(folder / "records", folder)
    return folder


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as programs:
        browser = programs.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture(name="opened")
def _opened(folder: Path, browser: Any) -> Iterator[Any]:
    """Return a function that opens a page and returns it with all that went wrong."""
    contexts = []

    def open_page(name: str, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page, wrong = context.new_page(), []
        root = (folder / name).resolve()

        def asked(request: Any) -> None:
            parts = urlsplit(request.url)
            inside = Path(unquote(parts.path)).resolve().is_relative_to(root)
            if parts.scheme != "data" and not (parts.scheme == "file" and inside):
                wrong.append(f"asked for {request.url}")

        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.goto((root / "index.html").as_uri())
        return page, wrong

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_asks_for_nothing_elsewhere_and_lacks_nothing(opened: Any, name: str) -> None:
    page, wrong = opened(name)
    assert page.evaluate(MISSING) == []
    assert page.locator("img").count() >= (1 if name == "combined-mini" else 5)
    assert wrong == []
    assert page.title().endswith(f"{name.rpartition('-')[2]} profile")


@pytest.mark.parametrize(("name", "width", "scheme"), LOOKS)
def test_page_meets_the_rules_for_readers_of_all_kinds(
    opened: Any, name: str, width: int, scheme: str
) -> None:
    """axe's rules of WCAG 2.1 A and AA, contrast among them; nothing is wider than the screen."""
    from axe_playwright_python.sync_playwright import Axe

    page, _ = opened(name, width, scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}}).response
    told = [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found["violations"]]
    assert told == []
    assert len(found["passes"]) > 10
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", PAGES)
def test_every_control_is_reached_by_the_keyboard_and_seen_to_be(opened: Any, name: str) -> None:
    page, _ = opened(name)
    expected = page.evaluate(REACHABLE)
    reached = []
    for _ in range(len(expected) + 5):
        page.keyboard.press("Tab")
        element, is_visible = page.evaluate(FOCUSED)
        if element is None:
            break
        assert is_visible, element
        reached.append(element)
    assert reached == expected
    assert 'class="skip"' in reached[0]


def test_examples_are_found_by_their_words_and_outcome(opened: Any) -> None:
    page, _ = opened("msvd-qa-mini")
    shown = page.locator("article.example:visible")
    total = shown.count()
    assert page.locator("#found").inner_text() == f"{total} of {total}"
    question = shown.nth(1).locator("h3").inner_text()
    page.fill("#find-words", question.upper())
    assert shown.count() >= 1
    assert all(question in text for text in shown.locator("h3").all_inner_texts())
    page.fill("#find-words", "nothing has these words")
    assert shown.count() == 0
    assert page.locator("#found").inner_text() == f"0 of {total}"
    page.fill("#find-words", "")
    page.uncheck("#find-right")
    kinds = page.evaluate(
        "[...document.querySelectorAll('article.example')].filter((one) => !one.hidden)"
        ".map((one) => one.dataset.kind)"
    )
    assert set(kinds) == {"wrong"}
    assert 0 < len(kinds) < total
    page.uncheck("#show-veil")
    assert page.locator(".veil:visible").count() == 0


def test_markup_in_a_caption_stays_text(opened: Any) -> None:
    page, wrong = opened("msrvtt-mini")
    assert page.locator("article.example h3").first.inner_text() == HOSTILE
    assert page.title() != "taken"
    assert wrong == []


def test_page_prints(opened: Any, tmp_path: Path) -> None:
    page, _ = opened("msrvtt-mini")
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
