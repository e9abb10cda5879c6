"""The page in a real Chromium: phone and desk, light and dark, keyboard, and what axe-core finds."""

import re

import numpy as np
import pytest
from tests.browsers import PICTURES
from tests.unit.monitor.night import night

from engine.monitor import ModelMonitor, Reference, serve

WIDTHS = (1400, 390)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Files of pages: one model that is ill, two models, and one that has seen nothing."""
    folder = tmp_path_factory.mktemp("pages")
    with night() as ill, night(broken=False, name="pricing") as well, ModelMonitor(background=False) as new:
        ill.report(folder / "ill.html")
        well.report(folder / "two.html", ill)
        new.report(folder / "new.html")
    return folder


@pytest.fixture
def opened(browser):
    """Open a page without a network, and fail on any error in it."""
    contexts, errors = [], []

    def open_page(address, width=1400, scheme="light", offline=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=offline
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda request: errors.append(request.url) if ":" in request.url[5:] and offline else None,
        )
        page.goto(str(address))
        errors[:] = [error for error in errors if not error.startswith(("file:", "data:"))]
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ill", "two", "new"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_fits_follows_the_scheme_and_has_no_findings(opened, pages, name, width, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    page = opened((pages / f"{name}.html").as_uri(), width, scheme)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"monitor-{name}-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert (red + green + blue > 600) == (scheme == "light")
    found = axe.Axe().run(page).response["violations"]
    assert [(entry["id"], entry["nodes"][0]["html"]) for entry in found] == []


def test_every_picture_of_a_column_has_ink(opened, pages):
    page = opened((pages / "ill.html").as_uri())
    blank = page.evaluate(
        """() => [...document.querySelectorAll('.columns tbody tr')].filter(row => {
             const shapes = [...row.querySelectorAll('.pic rect.ref, .pic rect.now, .pic path')];
             const boxes = shapes.map(shape => shape.getBoundingClientRect());
             return !boxes.some(box => box.width > 2 && box.height > 5);
           }).map(row => row.dataset.name)"""
    )
    assert blank == []


def test_columns_are_found_and_sorted_by_keyboard(opened, pages):
    page = opened((pages / "ill.html").as_uri())
    shown = "() => [...document.querySelectorAll('.columns tbody tr')].filter(r => !r.hidden).map(r => r.dataset.name)"
    assert len(page.evaluate(shown)) == 31
    page.keyboard.press("/")
    page.keyboard.type("score_1")
    assert len(page.evaluate(shown)) == 9  # score_10 … score_18
    assert page.locator(".tools output").text_content() == "9 of 31 shown"
    page.keyboard.press("Tab")
    page.keyboard.type("name")
    assert page.evaluate(shown)[:2] == ["score_10", "score_11"]
    page.locator("input[type=search]").fill("")
    page.locator("input[type=checkbox]").check()
    assert set(page.evaluate(shown)) == {"temp", "pressure", "origin"}


def test_a_link_of_an_alert_leads_to_its_picture_even_if_it_is_hidden(opened, pages):
    page = opened((pages / "ill.html").as_uri())
    page.locator("input[type=search]").fill("score")
    page.locator(".troubles a", has_text="temp").click()
    row = page.locator(".columns tr:target")
    row.wait_for()
    assert row.get_attribute("data-name") == "temp"


def test_without_scripts_the_page_is_readable(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((pages / "ill.html").as_uri())
    assert page.locator(".columns tbody tr").count() == 31
    assert page.locator(".tools").is_hidden()
    context.close()


def test_a_page_that_is_served_keeps_itself_up_to_date(opened, monkeypatch):
    from engine.monitor import server
    from engine.monitor.report import page as pages

    monkeypatch.setattr(pages, "LIVE_S", 1)
    monkeypatch.setattr(server, "FRESH_S", 0.0)
    made = Reference.fit({"a": np.random.default_rng(0).normal(size=500), "b": np.zeros(500)})
    with ModelMonitor(made, handlers=[], name="fraud") as monitor, serve(monitor, port=0) as running:
        page = opened(running.url, offline=False)
        assert page.locator(".now .badge").first.text_content() == "No answers yet"
        page.locator("input[type=search]").fill("a")
        monitor.alert("first message")
        for _ in range(300):
            monitor.log_prediction([9.0, 0.0], 0.5, 1.0)
        page.locator(".now .badge", has_text="Warning").first.wait_for(timeout=60_000)
        assert page.title() == "Warning: fraud"
        assert page.locator("input[type=search]").input_value() == "a"
        assert page.locator(".columns tbody tr").first.get_attribute("data-name") == "a"
        assert page.evaluate("document.activeElement.type") == "search"
        # It asks its server for itself all the time, which would fail once that is closed.
        page.close()
