"""The report in a real browser, opened from its file without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_pages import PATIENCE, TEXT, large_page, made_up, made_up_sound, open_page

from throughtime.sight import match
from throughtime.sight.report.data import Curve, Flow, Values
from throughtime.sight.report.packing import quantized
from throughtime.sight.report.render import write

HOSTILE = [
    *"</script><script>document.title='in'</script>",
    "<img src=x onerror=\"document.title='in'\">",
    *("\0", "\u202e", "\u2028", "\ud83d", "\r", "\t", "", "\n\n"),
    *("\U0001f701", "\U0001f469\u200d\U0001f467", "e\u0301", "&amp;", "%{y}"),
    *"שלום مرحبا",
    *"\"'`${1}",
]

Driver = Any


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(made_up(), tmp_path_factory.mktemp("report") / "a report's page.html")


def resize(driver: Driver, width: int) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )


def complaints(driver: Driver) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser")]


def colors(driver: Driver) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('#reading span[data-t]')].map(s => getComputedStyle(s).backgroundColor)"
    )


def press(driver: Driver, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    actions = ActionChains(driver)
    for key in keys:
        actions.send_keys(key)
    actions.perform()


def choose(driver: Driver, id: str, value: str) -> None:
    driver.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
        id, value,
    )  # fmt: skip


def wait_for(driver: Driver, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, PATIENCE, 0.02).until(lambda d: d.execute_script(f"return {script}"))


def see(driver: Driver, chart: str) -> None:
    """Scroll to a chart until it is drawn; other charts drawn meanwhile may push it away again."""
    wait_for(driver, f"{chart}.dataset.drawn || {chart}.scrollIntoView()")


def see_all(driver: Driver) -> None:
    """Draw all charts, so that the layout no longer changes."""
    for chart in driver.find_elements("class name", "chart"):
        see(driver, f"document.getElementById('{chart.get_attribute('id')}')")


def token(driver: Driver, t: int) -> Any:
    return driver.find_element("css selector", f"#reading span[data-t='{t}']")


def assert_looks_right(driver: Driver, widths: Sequence[int]) -> None:
    """Assert that an open page draws its charts, switches themes and fits each width of the window without errors."""
    see_all(driver)
    for width in widths:
        resize(driver, width)
        for theme in ("dark", "light"):
            driver.find_element("css selector", f"button[data-theme={theme}]").click()
        wait_for(driver, f"document.documentElement.scrollWidth <= {width}")
    assert complaints(driver) == []


def test_page_opens_without_errors_and_draws_all_charts(driver: Driver, page: Path) -> None:
    resize(driver, 400)
    open_page(driver, page)
    charts = driver.execute_script("return document.querySelectorAll('.chart').length")
    assert charts == 6
    for k in range(charts):
        see(driver, f"document.querySelectorAll('.chart')[{k}]")
        wait_for(driver, f"document.querySelectorAll('.chart')[{k}].querySelector('.main-svg') !== null")
    assert_looks_right(driver, (400, 1280))
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert complaints(driver) == []


def test_whole_text_is_shaded_by_the_most_interesting_unit(driver: Driver, page: Path) -> None:
    resize(driver, 1280)
    open_page(driver, page)
    assert driver.execute_script("return document.getElementById('unit').value") == "3"
    assert driver.execute_script("return document.getElementById('reading').textContent").replace("↵", "") == TEXT * 3
    shades = colors(driver)
    # Unit 3 has two values: one at uppercase letters, another elsewhere.
    assert len(set(shades)) == 2
    assert len({shades[t] for t, c in enumerate(TEXT * 3) if c.isupper()}) == 1


def test_choosing_another_unit_value_or_layer_changes_the_shading(driver: Driver, page: Path) -> None:
    open_page(driver, page)
    seen = [colors(driver)]
    choose(driver, "unit", "5")
    seen.append(colors(driver))
    driver.find_element("id", "next").click()
    seen.append(colors(driver))
    choose(driver, "layer", "layer1")
    wait_for(driver, "document.getElementById('value').value === 'forget'")
    seen.append(colors(driver))
    driver.find_element("id", "stretch").click()
    seen.append(colors(driver))
    assert len({tuple(shades) for shades in seen}) == len(seen)
    assert complaints(driver) == []


def test_clicking_a_character_shades_its_influences(driver: Driver, page: Path) -> None:
    open_page(driver, page)
    before = colors(driver)
    token(driver, 40).click()
    after = colors(driver)
    clear = "rgba(0, 0, 0, 0)"
    assert {t for t, c in enumerate(after) if c != clear} <= set(range(24, 40))
    assert after[39] != clear
    detail = driver.find_element("id", "detail").text
    assert "Prediction here" in detail
    assert "1 back" in detail
    token(driver, 40).click()
    assert colors(driver) == before


def test_keyboard_moves_selects_and_clears(driver: Driver, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(driver, page)
    before = colors(driver)
    place = "Number(document.activeElement.dataset.t)"
    driver.execute_script("document.querySelector('#reading span[tabindex=\"0\"]').focus()")
    press(driver, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert wait_for(driver, place) == 2
    press(driver, Keys.ARROW_DOWN)  # to the third character of the next line
    assert wait_for(driver, place) == TEXT.index("\n") + 3
    press(driver, Keys.ENTER)
    assert colors(driver) != before
    press(driver, Keys.ESCAPE)
    assert colors(driver) == before
    assert "place" not in driver.find_element("id", "status").text
    press(driver, Keys.END)
    assert wait_for(driver, place) == len(TEXT * 3) - 1


def test_selecting_text_agrees_with_match(driver: Driver, page: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(driver, page)
    before = colors(driver)
    driver.execute_script("document.querySelector('#reading span[tabindex=\"0\"]').focus()")
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT * 4).key_up(Keys.SHIFT).perform()
    detail = wait_for(driver, "document.getElementById('detail').innerText")
    assert "units on throughout “FIRST”" in detail
    values = made_up().values[0].steps
    levels, scales = quantized(values)
    seen = (levels.T.astype(float) - 128) / 127 * scales  # as packed in the page
    python = match(seen, (0, 5), list(TEXT * 3), threshold=0.3)
    listed = driver.execute_script(
        "return [...document.querySelectorAll('#detail .busy button')].map(b => b.textContent)"
    )
    assert [name for name in listed if name.startswith("unit")] == [f"unit {unit}" for unit in python.units]
    edged = match(seen, (0, 5), list(TEXT * 3), threshold=0.3, edges=True)
    again = driver.execute_script("return [...document.querySelectorAll('span.again')].map(s => Number(s.dataset.t))")
    assert again == [t for place in sorted(edged.occurrences) for t in range(place.start, place.stop)]
    assert len(again) > 5
    press(driver, Keys.ESCAPE)
    assert driver.execute_script("return document.querySelectorAll('span.again, span.span').length") == 0
    assert colors(driver) == before


def test_hovering_over_a_character_shows_its_value(driver: Driver, page: Path) -> None:
    from selenium.webdriver import ActionChains

    open_page(driver, page)
    ActionChains(driver).move_to_element(token(driver, 2)).perform()
    tip = driver.find_element("id", "tip").text
    assert tip.startswith("R at 2")
    assert "layer0.cell 3: 1.00" in tip


def test_surprise_shades_the_text_and_links_to_its_places(driver: Driver, page: Path) -> None:
    open_page(driver, page)
    driver.find_element("css selector", "input[value=surprise] + span").click()
    worst = int(np.nanargmax(made_up().reading.losses))
    driver.find_element("css selector", "#places button").click()
    assert wait_for(driver, "Number(document.activeElement.dataset.t)") == worst


def test_clicking_a_gallery_unit_shows_it_in_the_text(driver: Driver, page: Path) -> None:
    open_page(driver, page)
    wait_for(driver, "document.querySelectorAll('#gallery button').length")
    choose(driver, "unit", "5")
    driver.find_element("css selector", "#gallery button").click()
    assert wait_for(driver, "document.getElementById('unit').value === '3'")


def test_the_gallery_shows_units_that_differ(driver: Driver, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)

    def values(name: str, unit: int, interest: float, note: str) -> Values:
        scores, notes = np.zeros(4), [""] * 4
        scores[unit], notes[unit] = interest, note
        return Values("layer0", name, draw.normal(size=(len(TEXT), 4)), np.argsort(-scores), scores, notes)

    found = [
        values("input", 0, 0.9, "high at spaces"),
        values("forget", 1, 0.8, "low at spaces"),
        values("output", 2, 0.7, "high at spaces"),  # the third that follows spaces
        values("cell", 2, 0.6, "falls along a line"),
        values("hidden", 2, 0.5, "falls along a word"),  # already shown
    ]
    open_page(driver, write(made_up(TEXT, units=4, values=found), tmp_path / "report.html"))
    wait_for(driver, "document.querySelectorAll('#gallery button').length")
    names = driver.execute_script("return [...document.querySelectorAll('#gallery button')].map(b => b.textContent)")
    assert names == ["layer0.input 0", "layer0.forget 1", "layer0.cell 2"]  # the other units follow no feature


def test_curves_over_several_powers_of_ten_have_a_logarithmic_axis(driver: Driver, tmp_path: Path) -> None:
    layout = "document.getElementById('chart-training')._fullLayout"
    for lowest, kind in ((0.5, "linear"), (0.01, "log"), (0.0, "linear")):  # a logarithm needs positive values
        curve = Curve("training", np.arange(1, 4), np.array([5.0, 2.0, lowest]))
        open_page(driver, write(made_up(reading=None, values=[], curves=[curve]), tmp_path / f"{lowest}.html"))
        see(driver, "document.getElementById('chart-training')")
        assert wait_for(driver, f"{layout} && [{layout}.yaxis.type, {layout}.yaxis.title.text]") == [kind, "loss"]


def test_each_lag_is_next_to_its_marker_and_covers_no_other(driver: Driver, tmp_path: Path) -> None:
    fall = 0.99 ** np.arange(201)
    flows = [Flow("layer0", fall, lag, f"{lag} steps", 160, group)
             for lag, group in ((17, "before training"), (23, "after training"))]  # fmt: skip
    flows += [Flow("layer1", fall, lag, f"{lag} steps", 160, group)
              for lag, group in ((20, "before training"), (33, "after training"))]  # fmt: skip
    resize(driver, 1280)
    open_page(driver, write(made_up(reading=None, values=[], flows=flows), tmp_path / "report.html"))
    see(driver, "document.getElementById('chart-flow')")
    boxes = driver.execute_script(
        "return [...document.querySelectorAll('#chart-flow .annotation-text')].filter(e => Number(e.textContent))"
        ".map(e => [e, e.getBoundingClientRect()]).map(([e, b]) => "
        "[Number(e.textContent), b.left, b.top, b.right, b.bottom])"
    )
    assert sorted(box[0] for box in boxes) == [17, 20, 23, 33]
    for k, (_, left, top, right, bottom) in enumerate(boxes):
        for _, *other in boxes[:k]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    # The numbers on the left belong to the smaller lags, and those on the right to the larger ones.
    assert max(box[3] for box in boxes if box[0] <= 20) < min(box[1] for box in boxes if box[0] > 20)


def test_heat_map_shows_values_and_links_to_its_places(driver: Driver, page: Path) -> None:
    from selenium.webdriver import ActionChains

    open_page(driver, page)
    chart = driver.find_element("id", "chart-gates")
    see_all(driver)
    driver.execute_script("arguments[0].scrollIntoView()", chart)
    ActionChains(driver).move_to_element_with_offset(chart, 0, 60).perform()
    tip = driver.find_element("id", "tip").text
    assert tip.startswith("layer0.cell ")
    ActionChains(driver).click().perform()
    assert wait_for(driver, "document.activeElement.dataset.t")
    assert driver.execute_script("return document.getElementById('unit').value") == tip.split(":")[0].split()[1]


def test_the_page_has_a_light_and_a_dark_theme(driver: Driver, page: Path) -> None:
    open_page(driver, page)
    papers = []
    for theme in ("light", "dark"):
        driver.find_element("css selector", f"button[data-theme={theme}]").click()
        papers.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(set(papers)) == 2
    driver.find_element("css selector", "button[data-theme='']").click()
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == papers[0]


@pytest.mark.parametrize("of", [made_up, made_up_sound])
def test_theme_changes_while_the_page_is_still_being_unpacked(driver: Driver, of: Any, tmp_path: Path) -> None:
    page = write(of(), tmp_path / "page.html")
    clicks = "document.querySelector('button[data-theme=dark]').click();dispatchEvent(new Event('resize'))"
    early = f"<script nonce=NONCE>{clicks}</script>"
    text = page.read_text()
    nonce = re.search(r'<script nonce="([^"]+)"', text)
    assert nonce is not None
    page.write_text(text.replace("</body>", early.replace("NONCE", nonce[1]) + "</body>"))
    open_page(driver, page)
    assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"
    assert complaints(driver) == []


def test_hostile_text_is_harmless(driver: Driver, tmp_path: Path) -> None:
    hostile = "".join(HOSTILE)
    from throughtime.sight.report.data import Sample

    open_page(driver, write(
        made_up(HOSTILE * 2, title=hostile, facts=[hostile], step="word", samples=[Sample(hostile, hostile)]),
        tmp_path / "report.html",
    ))  # fmt: skip
    assert driver.execute_script("return document.querySelectorAll('#reading span[data-t]').length") == 2 * len(HOSTILE)
    see_all(driver)
    driver.execute_script("document.querySelectorAll('#reading span[data-t]').forEach(s => s.click())")
    assert driver.execute_script("return document.querySelectorAll('img').length") == 0
    assert driver.title != "in"
    assert complaints(driver) == []


def test_a_page_about_training_alone_opens_without_errors(driver: Driver, tmp_path: Path) -> None:
    data = made_up(reading=None, values=[], timescales=[], saturations=[])
    open_page(driver, write(data, tmp_path / "report.html"))
    wait_for(driver, "document.querySelector('#chart-flow').dataset.drawn")
    assert "Good morrow." in driver.find_element("id", "samples").text
    assert complaints(driver) == []


def test_page_with_2000_characters_and_256_units_has_few_elements(driver: Driver, tmp_path: Path) -> None:
    """The number of elements determines how long a page takes to open; benchmarks/report_page.py measures the time."""
    resize(driver, 1280)
    open_page(driver, large_page(tmp_path))
    count = driver.execute_script("return document.querySelectorAll('*').length")
    assert 2000 < count < 2 * 2000 + 10 * 256 + 1000  # per character, per unit, and all others
