"""The report of a search in a real browser: wide and narrow, without network, without JavaScript."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from searches.showing import report
from tests.browser.chromium import BROWSER, DRIVER, INSTALL, chromium, photograph, requests, show
from tests.summaries import SCRIPT, summary, typed

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason=INSTALL)

SECTIONS = ["answer", *report.SECTIONS]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = summary(240, costs=["trainable_parameters"], pareto=["0000", "0007"], smoke=True)
    return report.write(tmp_path_factory.mktemp("search"), typed(found))[0].as_uri()


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_window_asks_for_nothing_and_complains_of_nothing(browser: Chrome, page: str, width: int) -> None:
    show(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
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


def test_pictures_say_what_they_show(browser: Chrome, page: str) -> None:
    show(browser, page, 1280)
    pictures = browser.find_elements(By.CSS_SELECTOR, "figure")
    assert len(pictures) == 7
    for figure in pictures:
        assert figure.find_element(By.TAG_NAME, "figcaption").text
        assert figure.find_element(By.CSS_SELECTOR, "[role=img]").get_attribute("aria-label")
        assert figure.find_element(By.TAG_NAME, "svg").size["width"] > 300


def test_all_of_it_is_read_without_javascript(browser: Chrome, page: str) -> None:
    show(browser, page, 400)
    text = browser.find_element(By.TAG_NAME, "body").text
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, "data:text/html,<title>off</title><script>document.title = 'on'</script>", 400)
        assert browser.title == "off"
        show(browser, page, 400)
        assert browser.find_element(By.TAG_NAME, "body").text == text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "python searches/toy.py --name toy-again" in text


def test_it_prints_on_paper_without_what_only_a_screen_needs(browser: Chrome, page: str) -> None:
    show(browser, page, 1280)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()
        assert browser.find_element(By.CLASS_NAME, "claim").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
