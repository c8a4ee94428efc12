"""Compares the base model with SGA on one photograph: `make demo`.

Runs the two scripts as a user would, prints both results and the gain, and draws the original and
the reconstructions side by side.
"""

import argparse
import os
import sys

import numpy as np
from PIL import Image, ImageDraw

from imaging.reading import read_image
from inference import scripts

RUN = scripts.demo_run("mbt2018")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="samples/chelsea.png")
    parser.add_argument("--output", default="demo", help="folder for results and picture")
    parser.add_argument("--sga_its", default="2000", help="iterations of SGA")
    args = parser.parse_args()

    base = compress("mbt2018", args)
    sga = compress("sga", args, "--sga_its", args.sga_its)
    original = read_image(args.image)
    panels = [("original, 24 bpp", original)]
    print("\n{:6} {:>8} {:>9} {:>8} {:>22}".format("", "bpp", "PSNR", "MS-SSIM", "λ·MSE + bpp"))
    for name, (result, reconstruction) in (("base", base), ("SGA", sga)):
        keys = ("est_bpp", "psnr", "msssim", "est_rd_loss")
        bpp, psnr, msssim, loss = (float(result[key][0]) for key in keys)
        line = "{:6} {:8.4f} {:6.2f} dB {:8.4f} {:22.4f}"
        print(line.format(name, bpp, psnr, msssim, loss))
        panels.append(("{}, {:.3f} bpp, {:.2f} dB".format(name, bpp, psnr), reconstruction))
    base, sga = base[0], sga[0]
    print(
        "gain   {:+7.1f}% {:+6.2f} dB {:>8} {:+21.1f}%".format(
            100 * (sga["est_bpp"][0] / base["est_bpp"][0] - 1),
            sga["psnr"][0] - base["psnr"][0],
            "",
            100 * (sga["est_rd_loss"][0] / base["est_rd_loss"][0] - 1),
        )
    )
    picture = os.path.join(args.output, "side-by-side.png")
    draw(panels, picture)
    print("\nbpp: bits per pixel; λ·MSE + bpp: what is minimised. Picture: " + picture)


def compress(script, args, *flags):
    """Runs a script on the image; returns its result and reconstruction."""
    print("running {} on {}".format(script, args.image), flush=True)
    flags = ("--save_reconstruction", *flags)
    path = scripts.compress(script, RUN, args.image, args.output, *flags)
    with np.load(path, allow_pickle=False) as result:
        return dict(result), np.asarray(Image.open(path[: -len(".npz")] + ".png"))


def draw(panels, path):
    """Writes a picture of labelled images, (text, uint8 (H, W, 3)), side by side."""
    height, width, _ = panels[0][1].shape
    gap, bar = 8, 20
    picture = Image.new("RGB", (len(panels) * (width + gap) - gap, height + bar), "white")
    pen = ImageDraw.Draw(picture)
    for index, (text, pixels) in enumerate(panels):
        left = index * (width + gap)
        picture.paste(Image.fromarray(pixels), (left, bar))
        pen.text((left + 2, 4), text, fill="black")
    picture.save(path)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
