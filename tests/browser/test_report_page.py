"""The report of a search in a real browser: wide and narrow, without network, with and without its script, on paper."""

import base64
import re
from collections.abc import Iterator
from threading import Thread

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from searches.showing import report
from searches.showing.live_report import PageServer
from tests.browser.axe import axe_script, violations
from tests.browser.chromium import BROWSER, DRIVER, INSTALL, chromium, photograph, requests, show
from tests.summaries import GAINS, SCRIPT, summary, typed
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason=INSTALL)

FOUND = summary(240, costs=["trainable_parameters"], pareto=["0000", "0007"], gains=GAINS, smoke=True)
SMALL = summary(30, costs=["trainable_parameters"], pareto=["0000", "0007"], smoke=True)
PAPER = 702  # pixels of a page of A4 between its margins
SECTIONS = ["answer", *report.SECTIONS]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report.write(tmp_path_factory.mktemp("search"), typed(FOUND))[0].as_uri()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report.write(tmp_path_factory.mktemp("small"), typed(SMALL))[0].as_uri()


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_script()


@pytest.fixture(autouse=True)
def usual_media(browser: Chrome) -> Iterator[None]:
    yield
    media(browser)


def media(browser: Chrome, *, kind: str = "", scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_window_asks_for_nothing_and_complains_of_nothing(browser: Chrome, page: str, width: int) -> None:
    show(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.get_log("browser") == []
    assert requests(browser) == [page]
    photograph(browser, f"report-{width}", whole=True)


def test_the_answer_is_seen_first_and_every_section_is_there(browser: Chrome, page: str) -> None:
    show(browser, page, 1280)
    tops = [browser.find_element(By.ID, name).location["y"] for name in SECTIONS]
    assert tops == sorted(tops)
    claim = browser.find_element(By.CLASS_NAME, "claim")
    assert claim.text.startswith("No effect of rank on dev loss was found: ")
    first = min(table.location["y"] for table in browser.find_elements(By.TAG_NAME, "table"))
    assert claim.location["y"] + claim.size["height"] < min(first, 900), "above any table, and seen without scrolling"
    assert SCRIPT in browser.find_element(By.TAG_NAME, "h1").text, "as text"


def test_wide_tables_scroll_in_their_own_box(browser: Chrome, page: str) -> None:
    show(browser, page, 400)
    box = browser.find_element(By.CSS_SELECTOR, "[aria-label='Trials, best first']")
    inner, outer = browser.execute_script("return [arguments[0].scrollWidth, arguments[0].clientWidth]", box)
    assert inner > outer
    assert outer <= 400
    browser.execute_script("arguments[0].scrollLeft = 1000", box)
    assert browser.execute_script("return [arguments[0].scrollLeft > 0, scrollX]", box) == [True, 0]
    assert box.find_element(By.CSS_SELECTOR, "tbody th").location["x"] >= 0, "the name of a trial stays in sight"
    hint = "arguments[0].previousElementSibling.textContent + arguments[0].previousElementSibling.hidden"
    said = "This table goes on to the right: scroll it sideways →"
    assert browser.execute_script(f"return {hint}", box) == f"{said}false"
    show(browser, page, 1280)
    narrow = browser.find_element(By.CSS_SELECTOR, "[aria-label='Search space']")
    assert browser.execute_script(f"return {hint}", narrow) == f"{said}true"


def test_pictures_say_what_they_show(browser: Chrome, page: str) -> None:
    show(browser, page, 1280)
    pictures = browser.find_elements(By.CSS_SELECTOR, "figure")
    assert len(pictures) == 7
    for figure in pictures:
        assert figure.find_element(By.TAG_NAME, "figcaption").text
        assert figure.find_element(By.CSS_SELECTOR, "[role=img], [role=application]").get_attribute("aria-label")
        assert figure.find_element(By.TAG_NAME, "svg").size["width"] > 300


def test_all_of_it_is_read_without_javascript(browser: Chrome, page: str) -> None:
    show(browser, page, 400)
    lines = browser.find_element(By.TAG_NAME, "body").text.splitlines()
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, "data:text/html,<title>off</title><script>document.title = 'on'</script>", 400)
        assert browser.title == "off"
        show(browser, page, 400)
        text = browser.find_element(By.TAG_NAME, "body").text
        assert not browser.find_elements(By.CSS_SELECTOR, "th button, .controls")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert set(text.splitlines()) <= set(lines)
    assert "python searches/toy.py --name toy-again" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_finds_nothing(browser: Chrome, small: str, axe: str, width: int, scheme: str) -> None:
    media(browser, scheme=scheme)
    show(browser, small, width)
    assert violations(browser, axe) == []
    photograph(browser, f"report-{scheme}-{width}", whole=True)


def test_axe_finds_a_picture_without_a_text(browser: Chrome, axe: str) -> None:
    show(browser, "data:text/html,<title>x</title><img src=x>", 400)
    assert "image-alt" in [found["rule"] for found in violations(browser, axe)]


def test_a_point_tells_its_trial_to_pointer_and_keyboard(browser: Chrome, small: str) -> None:
    show(browser, small, 1280)
    tip = browser.find_element(By.CLASS_NAME, "tip")
    assert not tip.is_displayed()
    curves = browser.find_element(By.CSS_SELECTOR, "figure [aria-label^='dev loss by epoch']")
    point = curves.find_elements(By.CSS_SELECTOR, "circle.hit")[-1]
    ActionChains(browser).move_to_element(point).perform()
    best = typed(SMALL).best
    assert best
    assert tip.text.splitlines()[0] == f"trial {best.id} (best score)"
    for part in (f"rank {best.point['rank']}", "dev loss: 4.", "best epoch 2 of 2; completed", "epoch 2: dev loss "):
        assert part in tip.text
    rows = browser.find_elements(By.CSS_SELECTOR, "tr.lit")
    assert {row.get_attribute("data-trial") for row in rows} == {best.id}
    curves.send_keys(Keys.END)
    assert tip.text.splitlines()[-1].startswith("epoch 2: dev loss ")
    curves.send_keys(Keys.ARROW_LEFT)
    assert tip.text.splitlines()[-1].startswith("epoch 1: dev loss ")
    curves.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_a_table_is_sorted_by_any_column(browser: Chrome, small: str) -> None:
    show(browser, small, 1280)
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Trials, best first']")
    place = [heading.text for heading in table.find_elements(By.CSS_SELECTOR, "thead th")].index("lr")
    heading = table.find_elements(By.CSS_SELECTOR, "thead th")[place]

    def values() -> list[float]:
        cells = "return [...arguments[0].querySelectorAll('td[data-name=lr]')].map((cell) => Number(cell.textContent))"
        return list(browser.execute_script(cells, table))

    written = values()
    for order in ("ascending", "descending"):
        heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        assert heading.get_attribute("aria-sort") == order
        assert values() == sorted(written, reverse=order == "descending")
    assert written != values()


def test_a_range_on_an_axis_shows_its_trials(browser: Chrome, small: str) -> None:
    show(browser, small, 1280)
    figure = browser.find_element(By.CSS_SELECTOR, "figure.wide")
    axis = figure.find_element(By.CSS_SELECTOR, "[aria-label='Range of rank']")
    status, reset = (figure.find_element(By.CSS_SELECTOR, part) for part in ("[role=status]", "button"))

    def shown() -> set[str]:
        rows = browser.find_elements(
            By.CSS_SELECTOR, "[aria-label='Trials, best first'] tr.matching td[data-name=rank]"
        )
        return {row.text for row in rows}

    height = axis.size["height"]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", axis)
    drag = ActionChains(browser).move_to_element_with_offset(axis, 0, -height // 2 + 2).click_and_hold()
    drag.move_by_offset(0, height // 2 - 4).release().perform()
    assert shown() == {"16", "32"}
    assert "of 29 trials are in range" in status.text
    reset.click()
    assert shown() == set()
    axis.send_keys(Keys.ARROW_UP)
    assert shown() == {"16", "32"}, "the keyboard selects the upper half first"
    axis.send_keys(Keys.ESCAPE)
    assert shown() == set()
    assert not reset.is_enabled()


def test_two_trials_texts_are_compared_blind(browser: Chrome, small: str) -> None:
    show(browser, small, 1280)
    box = browser.find_element(By.CLASS_NAME, "compare")
    names = [option.text for option in Select(box.find_elements(By.TAG_NAME, "select")[1]).options]

    def seen() -> dict[str, str]:
        headings = box.find_elements(By.TAG_NAME, "h4")[:2]
        return {heading.text: heading.find_element(By.XPATH, "following-sibling::pre").text for heading in headings}

    known = seen()
    assert [*known] == names
    box.find_element(By.CSS_SELECTOR, "input").click()
    assert [*seen()] == ["Text A", "Text B"]
    assert sorted(seen().values()) == sorted(known.values())
    box.find_element(By.TAG_NAME, "button").click()
    assert seen() == known


def test_it_prints_on_few_pages_without_what_only_a_screen_needs(browser: Chrome, small: str) -> None:
    show(browser, small, 1280)
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    assert 1 <= len(re.findall(rb"/Type /Page\b", base64.b64decode(paper["data"]))) <= 6
    media(browser, kind="print")
    show(browser, small, PAPER)
    assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()
    assert browser.find_element(By.CLASS_NAME, "claim").is_displayed()
    wide = "return [...document.querySelectorAll('table')].filter((table) => table.offsetWidth > innerWidth).length"
    assert browser.execute_script(wide) == 0, "no table is cut"


def test_a_page_that_is_served_reloads_itself(browser: Chrome) -> None:
    with PageServer() as server:
        server.show(report.view(typed(SMALL)))
        Thread(target=server.serve_forever, daemon=True).start()
        show(browser, server.link, 1280)
        state = browser.find_element(By.ID, "live")
        assert state.text == "Live: this page follows the search."
        assert [message for message in browser.get_log("browser") if "favicon" not in message["message"]] == []
        server.show(report.view(typed(SMALL | {"question": "Has it changed?"})))
        wait = WebDriverWait(browser, PATIENCE)
        wait.until(lambda page: page.title == "toy: Has it changed?")
        server.shutdown()
    wait.until(lambda page: page.find_element(By.ID, "live").text.startswith("No longer live"))
