"""`ovquant report` through the command line, and its page in a real browser."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from fakes.reports import HOSTILE, source
from playwright.sync_api import expect, sync_playwright

from ovquant.report import page
from ovquant.report.content import content

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
CHARTS = {"front", "progress", "bursts", "spread", "layers"}


def test_a_search_ends_with_its_report_and_the_command_writes_the_same_again(run: Run, searched_copy: Path) -> None:
    assert "is finished: 10 strategies tried" in (searched_copy / "report.html").read_text()
    (searched_copy / "report.html").unlink()
    assert "Wrote" in run("report", searched_copy).output
    assert "is finished: 10 strategies tried" in (searched_copy / "report.html").read_text()
    assert not list(searched_copy.glob("*.partial"))


def test_markdown_and_json_tell_what_the_result_holds(run: Run, searched: Path) -> None:
    run("report", searched, "--format", "json", "-o", "report.json")
    run("report", searched, "--format", "md", "-o", "report.md")
    result = json.loads((searched / "result.json").read_text())
    told = json.loads(Path("report.json").read_text())
    assert told["winner"] == result["verdict"]["winner"]
    assert told["verdict"]["sentences"] == result["verdict"]["sentences"]
    assert [row["speedup"]["value"] for row in told["models"]["measured"]] == [
        pytest.approx(1 / row["latency"]["ratio"]["value"]) for row in result["verdict"]["rows"]
    ]
    assert told["layers"]["total_us"] == pytest.approx(sum(k["time_us"] for k in result["kernels"]["winner"]["kernels"]))
    assert len(told["trials"]) == 11
    assert "| winner (trial" in Path("report.md").read_text()


def test_only_reports_are_written_over(run: Run, searched: Path) -> None:
    Path("mine.html").write_text("<html>mine</html>")
    assert "nothing was overwritten" in run("report", searched, "-o", "mine.html", code=7).output
    assert Path("mine.html").read_text() == "<html>mine</html>"
    assert "no directory" in run("report", searched, "-o", "none/r.html", code=7).output
    assert "is a directory" in run("report", searched, "-o", ".", code=7).output
    assert "no such directory" in run("report", "none", code=7).output
    assert "more than 0" in run("report", searched, "--watch", "0", code=2).output
    for form in ("html", "md", "json"):
        for _ in range(2):
            run("report", searched, "--format", form, "-o", f"r.{form}")


def test_an_infeasible_search_still_gets_its_report(run: Run, conv_case: tuple[Path, Path]) -> None:
    run("search", conv_case[0], "--data", conv_case[1], "--max-divergence", "0", "--max-trials", "2", "-o", "out", code=8)
    told = run("report", "out", "--format", "json", "-o", "r.json").output
    assert "ended (max_trials reached) without a verdict" in told
    assert "Nearest miss" in Path("out/report.html").read_text()


def test_a_running_search_can_be_watched_and_a_killed_one_reported(run: Run, conv_case: tuple[Path, Path]) -> None:
    arguments = ["search", conv_case[0], "--data", conv_case[1], "--budget", "5m", "--population", "2", "-o", "out"]
    command = [sys.executable, "-m", "ovquant", *map(str, arguments)]
    searching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert searching.stdout is not None
        assert any("trial   1" in line for line in searching.stdout)
        watch = [sys.executable, "-m", "ovquant", "report", "out", "--watch", "0.5"]
        watching = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        first = watching.stdout.readline()
        assert "is running" in first, first
        assert any("trial   4" in line for line in searching.stdout)
    finally:
        searching.kill()
        searching.communicate()
    rest = watching.communicate(timeout=60)[0]
    assert watching.returncode == 0
    assert "was stopped before its end" in rest.splitlines()[-1]
    assert "was stopped before its end" in Path("out/report.html").read_text()
    assert json.loads(run("report", "out", "--json").stdout)["state"] == "stopped"


def test_the_commands_it_gives_run(run: Run, searched_copy: Path) -> None:
    run("report", searched_copy, "--format", "json", "-o", "r.json")
    commands = {one["does"]: one["command"] for one in json.loads(Path("r.json").read_text())["reproduce"]}
    replay = commands["the winner again, without a search"].replace("-o DIR", "-o again --json")
    assert json.loads(run(*shlex.split(replay)[1:]).stdout)["is_identical_to_recipe"]
    run(*shlex.split(commands["write a trial's model"].replace("-o DIR", "-o exported"))[1:])
    assert Path("exported/model.xml").is_file()
    run(*shlex.split(commands["measure the winner again"])[1:])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Opened:
    """A page with all that it complained about and asked for."""

    def __init__(self, browser: Any, path: Path, theme: str = "light", fragment: str = "") -> None:
        self.page = browser.new_context(color_scheme=theme, viewport={"width": 1280, "height": 900}).new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append("dialog"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri() + fragment)

    def look_at_all(self) -> set[str]:
        """Scroll through the page and return the charts that are drawn."""
        for name in self.page.eval_on_selector_all(".chart", "all => all.map(one => one.id)"):
            self.page.locator(f"#{name}").scroll_into_view_if_needed()
            self.page.wait_for_selector(f"#{name} .main-svg")
        drawn = self.page.eval_on_selector_all(".js-plotly-plot", "all => all.map(one => one.id)")
        return {name.removeprefix("chart-") for name in drawn}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_text(page.render(content(source())), encoding="utf-8")
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_shows_everything_without_errors_or_requests(browser: Any, searched: Path, theme: str) -> None:
    opened = Opened(browser, searched / "report.html", theme)
    assert opened.look_at_all() >= CHARTS
    assert opened.complaints == []
    assert opened.requests == [(searched / "report.html").resolve().as_uri()]
    shown = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (shown == "rgb(255, 255, 255)") == (theme == "light")
    drawn = opened.page.evaluate("document.querySelector('#chart-front')._fullLayout.paper_bgcolor")
    assert (drawn == "#ffffff") == (theme == "light")
    opened.page.select_option("#theme", "light" if theme == "dark" else "dark")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != shown
    assert opened.page.evaluate("document.querySelector('#chart-front')._fullLayout.paper_bgcolor") != drawn


def test_a_click_on_a_point_shows_its_strategy(browser: Any, searched: Path) -> None:
    opened = Opened(browser, searched / "report.html")
    opened.page.locator("#chart-front").scroll_into_view_if_needed()
    opened.page.wait_for_selector("#chart-front .main-svg")
    told = json.loads(opened.page.text_content("#data"))
    shown = opened.page.locator("#panel h3")
    assert shown.inner_text().startswith(f"Trial {told['winner']}:")
    # A point that is not hidden behind another one: the float model's star.
    x, y = opened.page.evaluate(
        """() => { const chart = document.querySelector("#chart-front"), box = chart.getBoundingClientRect();
        const trace = chart.data.find((one) => one.name === "float model"), { xaxis, yaxis } = chart._fullLayout;
        return [box.x + xaxis._offset + xaxis.d2p(trace.x[0]), box.y + yaxis._offset + yaxis.d2p(trace.y[0])]; }"""
    )
    opened.page.mouse.click(x, y)
    expect(shown).to_have_text(re.compile("^Trial 0:"))
    assert opened.page.url.endswith("#trial-0")
    assert "float model" in opened.page.inner_text("#panel")


def test_trials_are_chosen_by_keyboard_and_by_address(browser: Any, searched: Path) -> None:
    opened = Opened(browser, searched / "report.html", fragment="#trial-3")
    assert opened.page.inner_text("#panel h3").startswith("Trial 3:")
    opened.page.click("#trials > summary")
    opened.page.focus('button[data-trial="2"]')
    opened.page.keyboard.press("Enter")
    assert opened.page.inner_text("#panel h3").startswith("Trial 2:")
    assert "subset_size" in opened.page.inner_text("#panel")
    assert opened.page.evaluate("document.activeElement.id") == "panel"


def test_print_is_light_and_shows_every_table(browser: Any, searched: Path) -> None:
    opened = Opened(browser, searched / "report.html", "dark")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "light"
    assert opened.page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    assert len(opened.page.query_selector_all(".js-plotly-plot")) == len(opened.page.query_selector_all(".chart"))
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_hostile_names_are_shown_as_they_are_and_run_nothing(browser: Any, hostile: Path) -> None:
    opened = Opened(browser, hostile, fragment="#trial-2")
    opened.look_at_all()
    assert HOSTILE in opened.page.text_content("h1")
    assert "<img src=x onerror=alert(1)>" in opened.page.inner_text("#panel")
    assert opened.page.query_selector("img, svg a") is None
    assert opened.complaints == []
    assert opened.requests == [hostile.as_uri()]


def test_an_unfinished_page_loads_itself_again_until_it_is_told_not_to(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = content(source(state="running", verdict=None, result={}))
    path.write_text(page.render(found, 0.5), encoding="utf-8")
    opened = Opened(browser, path)
    path.write_text(page.render({**found, "title": "a later one"}, 0.5), encoding="utf-8")
    expect(opened.page.locator("h1")).to_have_text("a later one")
    opened.page.uncheck("#refresh")
    path.write_text(page.render({**found, "title": "the last one"}, 0.5), encoding="utf-8")
    time.sleep(1.5)
    assert opened.page.inner_text("h1") == "a later one"


def test_a_search_where_every_name_is_an_attack(browser: Any, hostile_search: Path) -> None:
    opened = Opened(browser, hostile_search / "report.html")
    assert opened.look_at_all() >= CHARTS
    for number in range(3):
        opened.page.evaluate("(number) => document.querySelector(`button[data-trial='${number}']`).click()", number)
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert "</script><script>hacked=1</script>" in opened.page.inner_text("main")
    assert opened.page.evaluate("typeof hacked") == "undefined"
    assert opened.page.query_selector("main img") is None
    assert opened.page.locator("body script").count() == 3
    assert opened.complaints == []
    assert opened.requests == [(hostile_search / "report.html").as_uri()]


def test_it_fits_a_small_screen_and_its_tables_need_no_script(browser: Any, searched: Path) -> None:
    opened = Opened(browser, searched / "report.html")
    opened.page.set_viewport_size({"width": 390, "height": 800})
    opened.look_at_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto((searched / "report.html").as_uri())
    assert "NNCF default" in plain.inner_text("main")
    context.close()
