"""Reconstructions side by side, in one picture."""

from PIL import Image, ImageDraw, ImageFont

from runtime.files import atomic_write

GAP = 8  # pixels between the images
BAR = 16  # pixels above each for its label, times the scale of the letters
READABLE = 250  # width of an image, in pixels, from whose double on letters are larger


def write(path, panels, columns=3):
    """Writes labelled images in rows, as a PNG.

    Args:
      path: file to write.
      panels: list of (text, uint8 (H, W, 3)) of one size. Letters outside of Latin-1 become "?".
      columns: number of images in a row.
    """
    height, width, _ = panels[0][1].shape
    labels = [label(text, max(1, width // READABLE)) for text, _ in panels]
    width, bar = max(width, *(one.width for one in labels)), labels[0].height
    rows = -(-len(panels) // columns)
    size = columns * (width + GAP) - GAP, rows * (height + bar)
    picture = Image.new("RGB", size, "white")
    for index, (text, (_, pixels)) in enumerate(zip(labels, panels)):
        left, top = index % columns * (width + GAP), index // columns * (height + bar)
        picture.paste(text, (left, top))
        picture.paste(Image.fromarray(pixels), (left, top + bar))
    with atomic_write(path) as file:
        picture.save(file, format="png")


def label(text, scale):
    """A line of text in black on white, an image `BAR` · `scale` pixels high."""
    # Pillow's own font has one size, and no letters beyond Latin-1.
    text = text.encode("latin-1", "replace").decode("latin-1")
    font = ImageFont.load_default()
    width, _ = font.getsize(text)
    image = Image.new("L", (width + 4, BAR), "white")
    ImageDraw.Draw(image).text((2, 2), text, font=font, fill="black")
    return image.resize((scale * image.width, scale * image.height), Image.BICUBIC)
