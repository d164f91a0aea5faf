"""What a user sees of a finished search: the link that it prints, its run in MLflow, and the report that it left."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.chromium import BROWSER, DRIVER, INSTALL, chromium, photograph, requests, show
from tests.runs import search, summary
from tests.server import Server
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (BROWSER and DRIVER), reason=INSTALL)]

NAME = "lora_rank-smoke"
FLAGS = ("--smoke", "--trials", "3", "--max-concurrent", "1", "--replicates", "0")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def printed(storage: Path) -> str:
    done = search(storage, *FLAGS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mlflow(storage: Path, printed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's pages over the search's database."""
    server = Server(tmp_path_factory.mktemp("mlflow"), database=f"sqlite:///{storage / 'mlflow.db'}")
    server.wait()
    yield server.uri
    server.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def link(printed: str, mlflow: str) -> str:
    """The link that the search prints, at the server of this test."""
    found = re.search(r"http://127\.0\.0\.1:5000(/\S+)", printed)
    assert found
    return mlflow + found[1]


def cells(browser: Chrome, column: str) -> list[str]:
    found = browser.find_elements(By.CSS_SELECTOR, f"[role=gridcell][col-id*='{column}']")
    return [cell.text.split("\n")[-1] for cell in sorted(found, key=lambda cell: cell.location["y"])]


def wait(browser: Chrome) -> WebDriverWait[Chrome]:
    return WebDriverWait(browser, PATIENCE, ignored_exceptions=[StaleElementReferenceException])


def test_the_printed_link_opens_charts_and_a_table_best_first(
    browser: Chrome, mlflow: str, printed: str, storage: Path
) -> None:
    trials = sorted(summary(storage, NAME)["trials"], key=lambda row: row["score"])
    show(browser, link(printed, mlflow), 1900)
    axes = wait(browser).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".parcoords text.label"))
    assert [axis.text for axis in axes] == ["rank", "lr", "batch_size", "best/dev_loss"], "alpha is a number or a word"
    curves = wait(browser).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".js-plotly-plot"))
    assert curves[0].is_displayed()
    photograph(browser, "mlflow-charts")
    browser.execute_script("arguments[0].click()", browser.find_element(By.CSS_SELECTOR, "input[value=TABLE]"))
    for column in ("best/dev_loss", "Run Name", "rank", "origin"):  # which the page fills one after the other
        wait(browser).until(lambda b: [cell for cell in cells(b, column) if cell][len(trials) - 1 :])  # noqa: B023
    assert [name.split()[0] for name in cells(browser, "Run Name")] == [row["id"] for row in trials]
    shown = [float(text.rstrip("…")) for text in cells(browser, "best/dev_loss")]
    assert shown == pytest.approx([row["score"] for row in trials], abs=1e-4)
    assert cells(browser, "rank") == [str(row["point"]["rank"]) for row in trials]
    assert cells(browser, "origin") == [row["origin"] for row in trials]
    photograph(browser, "mlflow-trials")


def test_the_mlflow_page_links_to_the_report(browser: Chrome, mlflow: str, printed: str, storage: Path) -> None:
    parts = re.search(r"/experiments/(\d+)/\S*viewStateShareKey=(\w+)", printed)
    assert parts
    experiment, parent = parts.groups()
    show(browser, f"{mlflow}/#/experiments/{experiment}/runs/{parent}?workflowType=machine_learning", 1440, 1600)
    found = wait(browser).until(lambda b: b.find_elements(By.LINK_TEXT, "Report"))
    text = browser.find_element(By.TAG_NAME, "body").text
    assert summary(storage, NAME)["answer"]["text"] in text
    assert str(storage / "searches" / NAME / "report.html") in text
    for trial in ("0000", "0001", "0002"):
        assert browser.find_element(By.PARTIAL_LINK_TEXT, trial).is_displayed()
    photograph(browser, "mlflow-search")
    browser.get(str(found[0].get_attribute("href")))
    wait(browser).until(lambda b: b.find_elements(By.TAG_NAME, "iframe"))
    browser.switch_to.frame(0)
    claim = wait(browser).until(lambda b: b.find_elements(By.CLASS_NAME, "claim"))
    assert claim[0].text.startswith("Not decided whether rank matters")
    browser.switch_to.default_content()
    photograph(browser, "mlflow-report")


def test_the_report_of_the_search_opens_from_its_folder(browser: Chrome, printed: str, storage: Path) -> None:
    path = storage / "searches" / NAME / "report.html"
    assert f"Report: {path}" in printed
    results = printed[printed.index("Answer: ") :].splitlines()
    notes = summary(storage, NAME)["answer"]["notes"]
    assert results[1 : 1 + len(notes)] == [f"Note: {note}" for note in notes]
    assert results[1 + len(notes)].startswith("Report: "), "first among the results"
    assert f"Results: {path.parent}\n" in printed
    for width in (1280, 400):
        show(browser, path.as_uri(), width)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.get_log("browser") == []
        assert requests(browser) == [path.as_uri()]
        photograph(browser, f"search-{width}", whole=True)
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "This was a smoke test" in text
    assert f"python searches/lora_rank.py --storage {storage} {' '.join(FLAGS)} --name {NAME}-again" in text
    assert f"gpt2-search promote {NAME} --storage {storage}" in text
