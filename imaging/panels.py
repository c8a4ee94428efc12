"""Reconstructions side by side, in one picture."""

from PIL import Image, ImageDraw, ImageFont

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
    # Pillow's own font has no letters beyond Latin-1.
    panels = [(text.encode("latin-1", "replace").decode("latin-1"), one) for text, one in panels]
    font = ImageFont.load_default()
    width = max(width, *(font.getsize(text)[0] + 4 for text, _ in panels))
    rows = -(-len(panels) // columns)
    size = columns * (width + GAP) - GAP, rows * (height + BAR)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for index, (text, pixels) in enumerate(panels):
        left, top = index % columns * (width + GAP), index // columns * (height + BAR)
        picture.paste(Image.fromarray(pixels), (left, top + BAR))
        pen.text((left + 2, top + 4), text, font=font, fill="black")
    with atomic_write(path) as file:
        picture.save(file, format="png")
