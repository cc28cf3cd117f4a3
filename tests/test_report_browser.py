"""Pages of llmc report in Chromium: without scripts and requests, accessible, in both themes, printed.

Needs chromium (Debian's package) and requirements-dev.txt; `playwright install` is not needed.
"""

from __future__ import annotations

import shutil

import pytest
from report_tools import events, write_check, write_run, write_sweep

from llmc.report.command import write_report
from llmc.report.theme import PAPER

pytest.importorskip("playwright", reason="needs playwright: pip install -r requirements-dev.txt")
pytest.importorskip("axe_playwright_python", reason="needs axe: pip install -r requirements-dev.txt")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
FLAGS = (
    "--headless --no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
KINDS = ["run", "mixed"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    run, wide = write_run(folder / "run", events()), write_run(folder / "wide", events(floor=1.2, width=512))
    others = [wide, write_check(folder / "check"), write_sweep(folder / "sweep")]
    paths = {"run": [run], "mixed": [run, *others]}
    return {name: write_report(paths[name], folder / f"{name}.html").as_uri() for name in KINDS}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, pages):
    """visit(kind, scheme, ...): the page in a window of its own, and what the browser said and asked for."""
    contexts = []

    def open_page(kind, scheme="light", size=DESK, script=True):
        context = browser.new_context(color_scheme=scheme, viewport=size, java_script_enabled=script)
        contexts.append(context)
        page, heard = context.new_page(), []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url))
        page.goto(pages[kind])
        return page, heard

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_for_and_axe_has_no_complaint(visit, pages, kind, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page, heard = visit(kind, scheme)
    assert heard == [pages[kind]]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == rgb(PAPER[scheme])
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")  # axe sees what is shown
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert heard == [pages[kind]]


def rgb(colour: str) -> str:
    return "rgb(" + ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5)) + ")"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_without_scripts_it_looks_the_same(visit, scheme):
    with_scripts, without = (
        visit("run", scheme, script=script)[0].screenshot(full_page=True) for script in (True, False)
    )
    assert with_scripts == without


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_wide_boxes_scroll_sideways(visit, kind, size):
    page, _ = visit(kind, size=size)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_texts_of_figures_have_the_ink_of_the_theme(visit):
    inks = set()
    for scheme in ("light", "dark"):
        page, _ = visit("run", scheme)
        fills = page.evaluate(
            "[...new Set([...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill))]"
        )
        assert fills == [page.evaluate("getComputedStyle(document.body).color")]
        inks |= set(fills)
    assert len(inks) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_prints_on_white_paper(visit, scheme):
    page, _ = visit("run", scheme)
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF") and 2 <= pdf.count(b"/Type /Page\n") <= 8
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == rgb(PAPER["light"])
    assert not page.is_visible("nav")


def test_the_keyboard_reaches_the_verdict(visit):
    page, _ = visit("run")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.is_visible(".skip")
    page.keyboard.press("Enter")
    assert page.url.endswith("#verdict")
