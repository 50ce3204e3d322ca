"""The page in a headless Chromium: quiet, self-contained, sortable, light and dark, readable on a phone."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HEADS = "#results thead th"


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        missing = f"none of {', '.join(NAMES)} is on this machine"
        if "CI" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(comparison):
    return (comparison / "report.html").as_uri()


@pytest.fixture
def open_page(browser, address):
    """Open the page; at the end nothing may have gone to the console or out of the page."""
    noise, requests, contexts = [], [], []

    def go(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert noise == []
    assert requests and {url for url in requests if not url.startswith("data:")} == {address}


def test_nothing_is_wider_than_a_phone_but_tables_scroll(open_page):
    page = open_page(width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator(".table", has=page.locator("#results"))
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    shown = page.locator("figure svg:visible")
    assert shown.count() == page.locator("figure:visible").count()
    assert shown.evaluate_all("all => all.every(svg => svg.getBoundingClientRect().right <= 390)")


def test_tables_sort_by_click_and_by_key(open_page):
    page = open_page()
    place = page.locator(HEADS).all_inner_texts().index("ACC %")
    head = page.locator(HEADS).nth(place)
    cells = page.locator(f"#results tbody td:nth-child({place + 1})")

    def values():
        return cells.evaluate_all("all => all.map(td => td.dataset.sort ?? null)")

    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    down = values()
    assert down[-1] is None and float(down[0]) > float(down[1])
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert values() == [down[1], down[0], None]
    page.locator(f"{HEADS} button").first.click()
    assert head.get_attribute("aria-sort") == "none"
    assert page.locator("#results tbody td:first-child").all_inner_texts() == ["dsn", "ewc", "naive"]


def test_figures_are_images_with_alternatives(open_page):
    page = open_page()
    figures = page.get_by_role("img").filter(visible=True)
    assert figures.count() >= 4
    assert all(len(text) > 40 for text in figures.evaluate_all("all => all.map(f => f.ariaLabel)"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_the_button_switches(open_page, scheme):
    page = open_page(scheme=scheme)

    def brightness():
        style = page.evaluate("""() => {
            const text = document.querySelector("figure svg text");
            return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill];
        }""")
        return [sum(map(int, colour[4:-1].split(","))) / 3 for colour in style]

    before = brightness()
    assert (before[0] > 128 > before[1]) if scheme == "light" else (before[0] < 128 < before[1])
    page.locator("#theme").click()
    after = brightness()
    assert (after[0] < 128 < after[1]) if scheme == "light" else (after[0] > 128 > after[1])
    assert page.locator("#theme").get_attribute("aria-pressed") == str(scheme == "light").lower()
