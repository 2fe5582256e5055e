"""The page of the report in headless Chromium: it draws, stays silent, needs no network, and is used by mouse and keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
CHARTS = ("front", "progress", "layers", "bursts", "spread")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page with all that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.url = path.resolve().as_uri()
        self.page.goto(self.url)

    def require_quiet(self) -> None:
        assert self.said == []
        assert [url for url in self.asked if url.split("#")[0] != self.url and not url.startswith(("data:", "blob:"))] == []
        self.page.close()

    def background(self, selector: str) -> str:
        script = "(element) => getComputedStyle(element).backgroundColor"
        return str(self.page.eval_on_selector(selector, script))

    def paper(self) -> str:
        return str(self.page.evaluate("document.getElementById('chart-front').layout.paper_bgcolor"))


@pytest.fixture
def opened(browser: Any, searched: Path) -> Iterator[Opened]:
    found = Opened(browser, searched / "report.html", viewport={"width": 1200, "height": 900}, color_scheme="light")
    yield found
    found.require_quiet()


def test_every_chart_is_drawn_and_the_verdict_comes_first(opened: Opened) -> None:
    assert opened.page.locator("h2").first.inner_text().startswith("Verdict")
    for name in CHARTS:
        opened.page.locator(f"#chart-{name}").scroll_into_view_if_needed()
        opened.page.wait_for_selector(f"#chart-{name} .main-svg", timeout=20_000)
        assert opened.page.locator(f"#chart-{name}").get_attribute("aria-label")
    assert opened.page.locator("#chart-front .point").count() >= 10
    assert "Trial" in opened.page.locator("#panel h3").inner_text()


def test_a_click_on_a_point_shows_its_strategy_and_hovering_its_numbers(opened: Opened) -> None:
    page = opened.page
    page.locator("#chart-front").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-front .point")
    front = page.evaluate(
        """() => {
            const chart = document.getElementById("chart-front");
            const index = chart.data.findIndex((trace) => trace.meta.colour === "feasible");
            const place = index < 0 ? chart.data.findIndex((trace) => trace.meta.colour === "front") : index;
            const trace = chart.data[place], box = chart.getBoundingClientRect(), { xaxis, yaxis } = chart._fullLayout;
            return { number: trace.customdata[0], x: box.x + xaxis._offset + xaxis.l2p(xaxis.d2l(trace.x[0])),
                     y: box.y + yaxis._offset + yaxis.l2p(yaxis.d2l(trace.y[0])) };
        }"""
    )
    page.mouse.move(front["x"], front["y"])
    page.wait_for_selector("#chart-front .hoverlayer .hovertext")
    told = page.locator("#chart-front .hoverlayer").text_content()
    assert f"trial {front['number']}" in told
    assert "divergence" in told
    page.mouse.click(front["x"], front["y"])
    page.wait_for_function(
        "(text) => document.querySelector('#panel h3').textContent.startsWith(text)", arg=f"Trial {front['number']}:"
    )
    panel = page.locator("#panel").inner_text()
    assert "subset_size" in panel
    assert "ignored_scope" in panel
    assert page.url.endswith(f"#trial-{front['number']}")


def test_the_keyboard_reaches_every_trial(opened: Opened) -> None:
    page = opened.page
    page.focus("#trials summary")
    page.keyboard.press("Enter")
    page.focus('button[data-trial="1"]')
    page.keyboard.press("Enter")
    assert page.locator("#panel h3").inner_text().startswith("Trial 1:")
    assert page.evaluate("document.activeElement.id") == "panel"
    assert page.locator("tr[aria-current=true]").count() == 1
    page.reload()
    assert page.locator("#panel h3").inner_text().startswith("Trial 1:")


def test_both_themes_reach_page_and_charts(opened: Opened, browser: Any, searched: Path) -> None:
    page = opened.page
    page.locator("#chart-front").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-front .main-svg")
    light, paper = opened.background("body"), opened.paper()
    page.select_option("#theme", "dark")
    assert opened.background("body") != light
    assert opened.paper() != paper
    page.select_option("#theme", "")
    assert opened.background("body") == light
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("(paper) => document.getElementById('chart-front').layout.paper_bgcolor !== paper", arg=paper)
    dark = Opened(browser, searched / "report.html", color_scheme="dark")
    assert dark.background("body") == opened.background("body") != light
    dark.require_quiet()


def test_it_prints_light_and_with_its_tables(opened: Opened) -> None:
    page = opened.page
    page.emulate_media(color_scheme="dark")
    is_light_and_open = page.evaluate(
        """() => {
            dispatchEvent(new Event("beforeprint"));
            const found = [document.documentElement.dataset.theme, document.querySelectorAll("details:not([open])").length];
            dispatchEvent(new Event("afterprint"));
            return [...found, document.documentElement.dataset.theme];
        }"""
    )
    assert is_light_and_open == ["light", 0, "dark"]
    assert page.pdf()[:5] == b"%PDF-"


def test_it_fits_a_small_screen(browser: Any, searched: Path) -> None:
    small = Opened(browser, searched / "report.html", viewport={"width": 390, "height": 800})
    assert small.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small.require_quiet()


def test_without_scripts_the_tables_are_there(browser: Any, searched: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((searched / "report.html").resolve().as_uri())
    assert "NNCF default" in page.locator("main").inner_text()
    context.close()


def test_hostile_names_do_nothing(browser: Any, hostile: Path) -> None:
    opened = Opened(browser, hostile / "report.html")
    page = opened.page
    for number in range(3):
        page.evaluate("(number) => document.querySelector(`button[data-trial='${number}']`).click()", number)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_selector("#chart-layers .main-svg")
    assert page.locator("#chart-layers .main-svg").count() > 0
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("main img").count() == 0
    assert page.locator("script").count() == 3
    assert "</script><script>hacked=1</script>" in page.locator("main").inner_text()
    opened.require_quiet()


def test_a_page_of_a_stopped_search_opens(browser: Any, run: Any, searched_copy: Path) -> None:
    (searched_copy / "result.json").unlink()
    shutil.rmtree(searched_copy / "best")
    run("report", searched_copy)
    opened = Opened(browser, searched_copy / "report.html")
    assert "not yet" in opened.page.locator("h2").first.inner_text()
    opened.page.wait_for_selector("#chart-front .point")
    assert opened.page.locator("#chart-front .point").count() >= 10
    assert opened.page.locator("#chart-bursts").count() == 0
    opened.require_quiet()
