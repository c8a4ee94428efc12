"""Pictures of several images side by side."""

import numpy as np
import pytest
from PIL import Image

from imaging import panels


@pytest.mark.parametrize("width, bar", [(100, 16), (300, 16), (600, 32)])
def test_images_and_labels(width, bar, tmp_path):
    """Two rows of two: each image is there as it is, below black letters on white."""
    rng = np.random.RandomState(0)
    images = [rng.randint(0, 256, (50, width, 3)).astype(np.uint8) for _ in range(3)]
    panels.write(str(tmp_path / "p.png"), [("SGA λ", one) for one in images], columns=2)
    picture = np.asarray(Image.open(str(tmp_path / "p.png")))
    assert picture.shape == (2 * (50 + bar), 2 * width + panels.GAP, 3)
    for index, one in enumerate(images):
        left, top = index % 2 * (width + panels.GAP), index // 2 * (50 + bar)
        np.testing.assert_array_equal(picture[top + bar : top + bar + 50, left : left + width], one)
        label = picture[top : top + bar, left : left + width]
        assert label.min() < 50 and label.max() == 255 and label.mean() > 200


def test_a_label_longer_than_an_image(tmp_path):
    text, one = 20 * "text ", np.zeros((10, 20, 3), np.uint8)
    panels.write(str(tmp_path / "p.png"), [(text, one)], columns=1)
    picture = Image.open(str(tmp_path / "p.png"))
    assert picture.size == (panels.label(text, 1).width, 10 + panels.BAR)
