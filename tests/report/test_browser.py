"""The page in a browser: ten runs of a hundred epochs, restarted and evaluated."""

import base64
import csv
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pattlite_dist.report.page import write_report
from pattlite_dist.report.record import read_records
from tests.report.samples import BEGIN, evaluate, started, write_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium-driver"),
]
RUNS, PHONE, DESK = 10, 390, 1280
CONTRAST = 4.5  # WCAG 2, of text


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("altair")
    folder = tmp_path_factory.mktemp("report")
    failed = {"event": "failed", "time": BEGIN + 5000, "error": "<b>full"}
    events = [started(0, 0, 225, 100), failed, started(6000, 4950, 225, 100)]
    first = evaluate(write_run(folder / "run-0", epochs=100, steps=225, every=20, events=events))
    record = (first / "metrics.jsonl").read_text()
    runs = [first]
    for seed in range(1, RUNS):
        changes = {"seed": seed, "optim": {"lr": 1e-4 * seed}}
        runs.append(evaluate(write_run(folder / f"run-{seed}", 0, 225, **changes)))
        (runs[-1] / "metrics.jsonl").write_text(record)
    assert write_report(read_records(runs), folder / "report.html") < 2_000_000
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(written: Path) -> "Iterator[Chrome]":
    pytest.importorskip("selenium")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless=new", "--disable-gpu", "--disable-extensions", "--no-first-run"):
        options.add_argument(flag)
    if os.geteuid() == 0:  # Chromium's sandbox is not for root
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = Chrome(options, Service(str(DRIVER)))
    try:
        resize(found, DESK)
        found.get(written.as_uri())
        drawn = wait(found, "return document.documentElement.dataset.drawn")
        charts = look(found, "return document.querySelectorAll('.chart svg.marks').length")
        assert int(drawn) == charts > 10
        yield found
    finally:
        found.quit()


def look(browser: "Chrome", script: str) -> Any:
    return browser.execute_script(script)


def wait(browser: "Chrome", script: str) -> Any:
    """The first value of a script that is true."""
    end = time.monotonic() + 30
    while not (found := look(browser, script)):
        assert time.monotonic() < end, script
        time.sleep(0.05)
    return found


def resize(browser: "Chrome", width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def press(browser: "Chrome", selector: str, key: str) -> None:
    """Press a key on an element that the keyboard can reach."""
    look(browser, f"document.querySelector('{selector}').focus()")
    assert look(browser, f"return document.activeElement.matches('{selector}')")
    browser.switch_to.active_element.send_keys(key)


def test_it_asks_for_nothing_but_itself_and_has_no_errors(browser: "Chrome", written: Path) -> None:
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked == [written.as_uri()]
    assert browser.get_log("browser") == []


def test_no_other_script_runs(browser: "Chrome") -> None:
    tried = look(
        browser,
        """
        const script = document.createElement('script');
        script.textContent = 'document.title = "changed"';
        document.body.append(script);
        return document.title
        """,
    )
    assert tried == f"{RUNS} runs - pattlite report"
    [refused] = browser.get_log("browser")
    assert "Content Security Policy" in refused["message"]


def test_a_tooltip_has_the_values_of_a_point(browser: "Chrome") -> None:
    from selenium.webdriver import ActionChains

    def read(chart: str) -> str:
        """Of the first of the marks that were drawn last."""
        found = look(
            browser,
            f"""
            const marks = document.querySelectorAll('[id="{chart}"] .mark-symbol.role-mark');
            const mark = [...marks].at(-1).querySelector('path');
            mark.scrollIntoView({{block: 'center', behavior: 'instant'}});
            return mark
            """,
        )
        ActionChains(browser).move_to_element(found).perform()
        shown = "document.querySelector('#vg-tooltip-element.visible')"
        return str(wait(browser, f"return {shown}?.innerText"))

    text = read("chart-optim.lr")
    assert all(part in text for part in ("run-", "optim.lr", "best val top-1", "%"))
    assert "failed: <b>full" in read("chart-val-loss")  # a restart's


def test_the_keyboard_chooses_the_axis_and_the_runs(browser: "Chrome") -> None:
    from selenium.webdriver.common.keys import Keys

    labels = "[...document.querySelectorAll('#chart-val-loss .role-axis-label text')]"
    numbers = f"{labels}.map(label => label.textContent)"
    assert "20,000" in look(browser, f"return {numbers}")
    press(browser, "input[name=by]:checked", Keys.ARROW_RIGHT)
    wait(browser, f"return {numbers}.includes('100')")  # epochs
    drawn = "document.querySelectorAll('#chart-val-loss .mark-line path').length"
    assert look(browser, f"return {drawn}") == RUNS
    for left in (RUNS - 1, RUNS):
        press(browser, "input[name=shown]", Keys.SPACE)
        wait(browser, f"return {drawn} === {left}")


def test_a_part_of_a_name_chooses_the_runs_and_their_restarts(browser: "Chrome") -> None:
    def type_in(text: str) -> None:
        look(browser, f"""
            const field = document.querySelector('input[name=find]');
            field.value = '{text}';
            field.dispatchEvent(new Event('input', {{bubbles: true}}));
        """)  # fmt: skip

    lines, marks = (f"document.querySelectorAll('#chart-val-loss .mark-{kind} path').length"
                    for kind in ("line", "symbol"))  # fmt: skip
    all_marks = look(browser, f"return {marks}")
    type_in("RUN-3")
    wait(browser, f"return {lines} === 1")
    assert look(browser, f"return {marks}") < all_marks
    type_in("")
    wait(browser, f"return {lines} === {RUNS}")


def test_the_numbers_of_a_chart_and_of_a_table_are_saved_as_csv(browser: "Chrome") -> None:
    look(browser, """
        const make = URL.createObjectURL;
        URL.createObjectURL = blob => make.call(URL, window.saved = blob);
    """)  # fmt: skip
    for of, head, row in (
        ("#chart-val-loss", ["step", "epoch", "hour", "value"], ["run-0", "val"]),
        ("table.sorts", ["run", "state", "epoch", "best val"], ["run-0"]),
    ):
        look(browser, f"""
            const place = document.querySelector('{of}');
            (place.caption ?? place.parentElement).querySelector('.csv').click();
        """)  # fmt: skip
        text = browser.execute_async_script("window.saved.text().then(arguments[0])")
        first, *rows = csv.reader(text.splitlines())
        assert set(head) <= set(first) and all(len(row) == len(first) for row in rows)
        assert set(row) <= set(rows[0]) and len(rows) >= RUNS
        assert all(float(row[first.index(head[-1])]) > 0 for row in rows)
    assert browser.get_log("browser") == []


def test_the_keyboard_sorts_the_runs_by_number(browser: "Chrome") -> None:
    from selenium.webdriver.common.keys import Keys

    place = look(browser, """
        const heads = [...document.querySelectorAll('table.sorts th[scope=col]')];
        const place = heads.findIndex(head => head.textContent === 'optim.lr');
        heads[place].firstChild.id = 'lr';
        return place
    """)  # fmt: skip
    column = f"""
        const rows = [...document.querySelector('table.sorts').tBodies[0].rows];
        return rows.map(row => Number(row.cells[{place}].textContent))
    """
    for direction in ("ascending", "descending"):
        press(browser, "#lr", Keys.ENTER)
        values = look(browser, column)
        assert values == sorted(values, reverse=direction == "descending")
        stated = look(browser, "return document.querySelector('#lr').parentElement.ariaSort")
        assert stated == direction


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_are_legible_in_both_themes(browser: "Chrome", theme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper, *inks = look(browser, """
        const style = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
        return [style('body', 'backgroundColor'), style('body', 'color'), style('nav a', 'color'),
            style('.note', 'color'), ...['#chart-val-loss .role-axis-label text',
            '#chart-confusion .mark-text text'].map(selector => style(selector, 'fill'))]
    """)  # fmt: skip
    dark = luminance(paper) < 0.5
    assert dark == (theme == "dark")
    assert min(contrast(paper, ink) for ink in inks) >= CONTRAST


def luminance(colour: str) -> float:
    """Of WCAG 2, from `rgb(0, 0, 0)`."""
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_nothing_overflows_a_phone(browser: "Chrome") -> None:
    resize(browser, PHONE)
    widest = (
        "Math.max(...[...document.querySelectorAll('.chart svg.marks')].map(e => e.clientWidth))"
    )
    wait(browser, f"return {widest} <= {PHONE}")
    assert look(browser, "return document.documentElement.scrollWidth") <= PHONE
    resize(browser, DESK)


def test_it_prints(browser: "Chrome") -> None:
    done = browser.execute_cdp_cmd("Page.printToPDF", {})
    pdf = base64.b64decode(done["data"])
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") >= 2
