"""What becomes of a screenshot (demo_data/page_image.py)."""

import numpy as np
from PIL import Image

from demo_data.page_image import trim_page


def test_the_rows_below_the_page_go_but_for_an_edge_and_colours_stay(tmp_path):
    pixels = np.full((200, 50, 3), 240, np.uint8)
    pixels[10:60, 5:45] = (200, 30, 20)
    Image.fromarray(pixels).save(tmp_path / "shot.png")
    trim_page(tmp_path / "shot.png", tmp_path / "out" / "page.png", 150)
    with Image.open(tmp_path / "out" / "page.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels[: 60 + 24])


def test_an_image_that_is_all_background_keeps_its_rows(tmp_path):
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "shot.png")
    trim_page(tmp_path / "shot.png", tmp_path / "page.png", 25)
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (30, 20)


def test_a_page_that_goes_on_is_cut_at_the_height(tmp_path):
    pixels = np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(20, axis=1)
    Image.fromarray(pixels).save(tmp_path / "shot.png")
    trim_page(tmp_path / "shot.png", tmp_path / "page.png", 60)
    with Image.open(tmp_path / "page.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels[:60])
