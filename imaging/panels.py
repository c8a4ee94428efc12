"""Reconstructions side by side, in one picture."""

from PIL import Image, ImageDraw

from runtime.files import atomic_write

GAP, BAR = 8, 20  # pixels between the images, and above each for its label


def write(path, panels, columns=3):
    """Writes labelled images in rows, as a PNG.

    Args:
      path: file to write.
      panels: list of (text, uint8 (H, W, 3)) of one size. Letters outside of Latin-1 become "?".
      columns: number of images in a row.
    """
    height, width, _ = panels[0][1].shape
    rows = -(-len(panels) // columns)
    size = columns * (width + GAP) - GAP, rows * (height + BAR)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for index, (text, pixels) in enumerate(panels):
        left, top = index % columns * (width + GAP), index // columns * (height + BAR)
        picture.paste(Image.fromarray(pixels), (left, top + BAR))
        text = text.encode("latin-1", "replace").decode("latin-1")  # Pillow's own font has no more
        pen.text((left + 2, top + 4), text, fill="black")
    with atomic_write(path) as file:
        picture.save(file, format="png")
