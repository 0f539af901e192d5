"""The sound page: its contents, and how it looks and plays in a real browser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from report_pages import made_up_sound, open_page
from sounds import plucks, tone, write
from test_report_browser import assert_looks_right, complaints, resize, see_all

from throughtime.cli.main import main
from throughtime.sight.report import render
from throughtime.sight.report.collect import collect
from throughtime.sight.report.sound import loudest, means
from throughtime.training import train
from throughtime.training.reloading import data_of

Driver = Any
RATE = 8000
TINY = {"hidden_size": 6, "batch": 4, "steps": 20, "threads": 1, "progress": False}


@pytest.fixture(scope="module")
def effect(tmp_path_factory: Any) -> Any:
    path = tmp_path_factory.mktemp("effect")
    dry = plucks(2.0, RATE)
    files = [write(path / "dry.wav", dry, RATE), write(path / "wet.wav", np.tanh(3 * dry), RATE)]
    return train(data=files, paired=True, window=200, segment=0.1, out=path / "run", **TINY)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: Any) -> Any:
    path = tmp_path_factory.mktemp("audio")
    return train(data=write(path / "a.wav", tone(), RATE), levels=16, window=50, out=path / "run", **TINY)


def test_effect_page_shows_the_error_over_time(effect: Any) -> None:
    data, codecs = data_of(effect), effect.description.codecs
    report = collect(effect, effect.task.passage(data.valid, codecs, 400, "held out"))
    (sound,) = report.sounds
    assert [track.name for track in sound.tracks] == ["dry", "target", "prediction"]
    _, wet, found = (track.samples.astype(float) for track in sound.tracks)
    assert np.array_equal(wet, np.asarray(data.valid.signals[0][:, 1], float))
    assert report.loss == "0.75 x pre-emphasized error-to-signal ratio + 0.25 x error of the means"
    rows = list(effect.task.predict(effect.model(), data.valid, codecs).rows)
    assert found == pytest.approx([row[1] for row in rows], abs=1e-6)  # float32
    first = slice(0, sound.window)
    ratio = ((wet - found)[first] ** 2).sum() / (wet[first] ** 2).sum()
    assert sound.along[0] == pytest.approx(10 * np.log10(ratio), abs=1e-3)
    hidden = next(value for value in sound.values if value.name == "hidden")
    assert hidden.low.shape == hidden.high.shape == (-(-len(wet) // hidden.size), 6)
    assert (hidden.low <= hidden.high).all()
    assert report.flows
    assert report.saturations


def test_audio_page_shows_bits_per_sample_and_a_generated_sound(audio: Any) -> None:
    data, codecs = data_of(audio), audio.description.codecs
    heard, drawn = audio.task.sounds(audio.model(), data.valid, codecs, ["layer0.hidden"])
    rows = list(audio.task.predict(audio.model(), data.valid, codecs).rows)
    bits = np.array([row[1] for row in rows])
    assert heard.along == pytest.approx(means(bits, heard.window), abs=1e-4)
    assert heard.tracks[1].samples == pytest.approx([row[2] for row in rows])
    assert len(drawn.tracks[0].samples) == 3 * RATE


def test_the_loudest_excerpt_is_shown() -> None:
    samples = np.r_[np.zeros(500), np.ones(100), np.zeros(300)]
    assert loudest(samples, 100) == 500
    assert loudest(samples, 2000) == 0
    assert means(np.arange(5), 2).tolist() == [0.5, 2.5, 4.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["effect", "audio"])
def test_train_and_inspect_write_the_page(name: str, request: Any, tmp_path: Any, capsys: Any, driver: Driver) -> None:
    run = request.getfixturevalue(name)
    assert 'id="sounds"' in run.report.read_text()
    assert main(["inspect", str(run.path), "--out", str(tmp_path / "page.html"), "--save-data"]) == 0
    assert "plays" in capsys.readouterr().out
    resize(driver, 1280)
    for page in (run.report, tmp_path / "page.html"):
        open_page(driver, page)
        see_all(driver)
        assert complaints(driver) == []


def test_page_opens_without_errors(driver: Driver, tmp_path: Any) -> None:
    resize(driver, 400)
    open_page(driver, render.write(made_up_sound(), tmp_path / "page.html"))
    assert_looks_right(driver, (400, 1280))


def test_page_is_redrawn_while_a_value_is_still_being_unpacked(driver: Driver, tmp_path: Any) -> None:
    resize(driver, 1280)
    open_page(driver, render.write(made_up_sound(), tmp_path / "page.html"))
    see_all(driver)
    chosen = """
        const [done] = arguments, pick = document.querySelector('select.sound-value');
        pick.selectedIndex = 1;
        pick.dispatchEvent(new Event('change'));
        dispatchEvent(new Event('resize'));
        document.querySelector('button[data-theme=dark]').click();
        setTimeout(() => done(pick.selectedOptions[0].textContent), 300);"""
    assert driver.execute_async_script(chosen)
    assert complaints(driver) == []


def test_sounds_play_draw_and_zoom(driver: Driver, tmp_path: Any) -> None:
    resize(driver, 1280)
    open_page(driver, render.write(made_up_sound(), tmp_path / "page.html"))
    names = driver.execute_script("return [...document.querySelectorAll('.player b')].map((e) => e.textContent)")
    assert names == ["dry", "target", "prediction", "residual", "drawn"]
    durations = driver.execute_async_script(
        "const read = (a) => a.readyState ? a.duration : new Promise((r) => a.onloadedmetadata = () => r(a.duration));"
        "Promise.all([...document.querySelectorAll('audio')].map(read)).then(arguments[0])"
    )
    assert durations == [1.0] * 5
    # The 1 kHz tone is a line at a quarter of the 4 kHz height, in the first half.
    dark = """
        const canvas = document.querySelector('[data-picture=spectrum]');
        const pen = canvas.getContext('2d'), scale = canvas.width / canvas.clientWidth;
        const column = (share) => { const x = 62 + share * (canvas.clientWidth - 62);
          const strip = pen.getImageData(Math.round(x * scale), 0, 1, canvas.height).data;
          const alphas = Array.from({ length: canvas.height }, (_, k) => strip[4 * k + 3]);
          return [Math.max(...alphas), 1 - alphas.indexOf(Math.max(...alphas)) / canvas.height]; };
        return [column(0.25), column(0.75)];"""
    (loud, place), (silent, _) = driver.execute_script(dark)
    assert loud > 200
    assert place == pytest.approx(0.25, abs=0.05)
    assert silent < 20
    stack = driver.find_element("css selector", ".stack")
    from selenium.webdriver import ActionChains

    ActionChains(driver).move_to_element_with_offset(stack, 0, -100).perform()
    tip = driver.find_element("id", "tip").text
    assert "residual" in tip
    assert "layer0.hidden 0" in tip
    before = stack.get_attribute("data-drawn")
    drag = ActionChains(driver).move_to_element_with_offset(stack, -200, 0).click_and_hold()
    drag.move_by_offset(100, 0).release().perform()
    assert stack.get_attribute("data-drawn") != before
