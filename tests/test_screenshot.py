"""Screenshots of pages (demo_data/screenshot.py)."""

import shutil

import pytest
from PIL import Image

from demo_data import screenshot
from dfdc.command_line import UsageError, UserError

PAGE = """<style>body { margin: 0; background: white; } div { height: 100px; background: rgb(200, 0, 0); }
@media (prefers-color-scheme: dark) { div { background: rgb(0, 0, 200); } }</style><div></div>"""


def test_a_page_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"none\.html: page not found"):
        screenshot.main([str(tmp_path / "none.html"), "--output", str(tmp_path / "a.png")])


def test_without_a_browser_the_error_names_one(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no browser found: install Chromium"):
        screenshot.take(tmp_path / "a.html", tmp_path / "a.png", 400, 300)


def test_a_browser_that_writes_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/true")
    with pytest.raises(UserError, match=r"wrote no image of .*a\.html"):
        screenshot.take(tmp_path / "a.html", tmp_path / "a.png", 400, 300)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, screenshot.BROWSERS)), reason="no Chromium here")
@pytest.mark.parametrize(("flags", "colour"), [([], (200, 0, 0)), (["--dark"], (0, 0, 200))])
def test_a_page_in_light_and_dark(tmp_path, flags, colour):
    page, output = tmp_path / "a page.html", tmp_path / "a.png"
    page.write_text(PAGE)
    assert screenshot.main([str(page), "--output", str(output), "--width", "640", "--height", "400", *flags]) == 0
    with Image.open(output) as image:
        assert image.size == (640, 124)
        assert image.convert("RGB").getpixel((320, 50)) == colour


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, screenshot.BROWSERS)), reason="no Chromium here")
def test_a_long_page_fills_the_image(tmp_path):
    """Some browsers paint fewer rows than the window has."""
    page, output = tmp_path / "a.html", tmp_path / "a.png"
    page.write_text("<body style='margin:0; height:3000px; background:linear-gradient(red, blue)'>")
    assert screenshot.main([str(page), "--output", str(output), "--width", "640", "--height", "400"]) == 0
    with Image.open(output) as image:
        assert image.size == (640, 400)
        red, green, blue = image.convert("RGB").getpixel((320, 399))
    assert green == 0
    assert (red > 150, blue > 20) == (True, True)
