"""Reports for labels, tags and notes in a real browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_pages import made_up_lines, made_up_times, open_page
from test_report_browser import assert_looks_right, choose, colors, press, resize, token, wait_for

from throughtime.sight.report.data import Roll
from throughtime.sight.report.render import write

CLEAR = "rgba(0, 0, 0, 0)"
Driver = Any


def texts(driver: Driver, selector: str) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(element => element.textContent)", selector
    )


def strength(color: str) -> float:
    """Return the opacity of a shade."""
    return 0.0 if color == CLEAR else float(color.rstrip(")").split(",")[3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "widths"),
    [("labels", (1280, 400)), ("tags", (400, 1280)), ("roll", (1280, 400)), ("curves", (400, 1280))],
)
def test_each_kind_opens_without_errors(driver: Driver, page: str, widths: tuple[int, int], tmp_path: Any) -> None:
    made = {
        "labels": made_up_lines,
        "tags": lambda: made_up_lines(whole=False),
        "roll": lambda: made_up_times(roll=True),
        "curves": lambda: made_up_times(roll=False),
    }
    resize(driver, widths[0])
    open_page(driver, write(made[page](), tmp_path / "page.html"))
    assert_looks_right(driver, widths)


def test_sequences_are_shaded_by_influence_on_their_labels(driver: Driver, tmp_path: Any) -> None:
    resize(driver, 1280)
    open_page(driver, write(made_up_lines(), tmp_path / "page.html"))
    shades = [strength(color) for color in colors(driver)]
    assert shades[0] == shades[3] == shades[8] == max(shades)
    assert shades[1] == pytest.approx(max(shades) / 2, abs=0.01)
    assert shades[2] == 0
    assert texts(driver, ".line .verdict") == ["x 75%", "x 75% (correct: y)", "x 75%"]
    token(driver, 3).click()
    detail = driver.find_element("id", "detail").text
    assert "1 of 2 in file:1" in detail
    assert "Prediction for this sequence" in detail
    assert "true label\ny" in detail
    driver.find_element("css selector", "input[value=unit] + span").click()
    assert [strength(color) for color in colors(driver)] != shades
    driver.find_element("css selector", "input[value=back] + span").click()
    assert [strength(color) for color in colors(driver)] == shades
    driver.find_element("id", "mistakes").click()
    assert [line.is_displayed() for line in driver.find_elements("css selector", ".line")] == [False, True, False]


def test_the_page_shows_the_confusion_matrix_and_the_tables(driver: Driver, tmp_path: Any) -> None:
    from selenium.webdriver import ActionChains

    open_page(driver, write(made_up_lines(), tmp_path / "page.html"))
    assert texts(driver, "#confusion-table th") == ["x", "y", "x", "y"]
    assert texts(driver, "#confusion-table tbody td") == ["2", "", "1", ""]
    cell = driver.find_element("css selector", "#confusion-table tbody tr:nth-child(2) td")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
    ActionChains(driver).move_to_element(cell).perform()
    assert driver.find_element("id", "tip").text == "1 of 1 sequences with label y (100%)\npredicted x"
    assert texts(driver, "#table-of-0 td") == ["de", "100.0%", "1,200"]


def test_influences_on_a_tag_stay_inside_its_sequence(driver: Driver, tmp_path: Any) -> None:
    open_page(driver, write(made_up_lines(whole=False), tmp_path / "page.html"))
    assert texts(driver, "#reading small") == ["x"] * 3 + ["x (correct: y)"] * 2 + ["x"] * 4
    token(driver, 6).click()
    shades = [strength(color) for color in colors(driver)]
    assert {t for t, shade in enumerate(shades) if shade} == {5, 6, 7}  # steps two away have no influence here
    assert shades[5] == shades[7] < shades[6]
    token(driver, 3).click()
    assert {t for t, color in enumerate(colors(driver)) if strength(color)} == {3, 4}
    assert "1 ahead" in driver.find_element("id", "detail").text


def test_roll_shows_keys_and_a_unit_below(driver: Driver, tmp_path: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(driver, write(made_up_times(roll=True), tmp_path / "page.html"))
    assert texts(driver, ".part .heading bdi") == ["Sequence 0", "first"]
    inked = (
        "return [...document.querySelectorAll(arguments[0])].map(c => c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.reduce((sum, x) => sum + x, 0))"
    )
    before = driver.execute_script(inked, ".trace")
    assert len(before) == 2
    assert min(before) > 0
    choose(driver, "unit", "2")
    assert driver.execute_script(inked, ".trace") != before
    assert min(driver.execute_script(inked, ".picture, #rolls canvas")) > 0
    picture = driver.find_element("css selector", ".picture")
    ActionChains(driver).move_to_element_with_offset(picture, 0, -30).perform()
    assert wait_for(driver, "document.getElementById('tip').textContent").startswith("C")
    ActionChains(driver).click().perform()
    assert wait_for(driver, "document.activeElement.dataset.t")
    assert "Notes" in driver.find_element("id", "detail").text
    before = driver.execute_script("return document.activeElement.dataset.t")
    press(driver, Keys.ARROW_RIGHT)
    assert driver.execute_script("return document.activeElement.dataset.t") == str(int(before) + 1)


def test_wide_rolls_and_long_names_stay_inside_the_page(driver: Driver, tmp_path: Any) -> None:
    wide = np.zeros((200, 12))
    data = made_up_times(roll=True, rolls=[Roll("Piece 0", [f"C{k}" for k in range(12)], wide, wide)])
    parts = [replace(part, name="a_long_name_without_spaces_" * 3) for part in data.reading.parts]
    data = replace(data, reading=replace(data.reading, parts=parts))
    resize(driver, 1000)
    open_page(driver, write(data, tmp_path / "page.html"))
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 1000
    scrolls = "const e = document.querySelector(arguments[0]); return e.scrollWidth > e.clientWidth"
    assert driver.execute_script(scrolls, "#rolls .scroll")
    token(driver, 3).click()
    assert not driver.execute_script(scrolls, "#detail")


def test_names_add_no_elements_to_a_page(driver: Driver, tmp_path: Any) -> None:
    from throughtime.sight.report.data import ConfusionMatrix, Table

    bad = "<img src=x onerror=\"document.title='in'\">"
    data = made_up_lines(
        confusion=ConfusionMatrix([bad, "y"], [[1, 2], [3, 4]], bad),
        tables=[Table(bad, bad, (bad,), [(bad,)])],
    )
    open_page(driver, write(data, tmp_path / "page.html"))
    assert driver.execute_script("return document.querySelectorAll('img').length") == 0
    assert driver.title != "in"
