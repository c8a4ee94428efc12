"""Compares the base model, SGA and classical codecs on one photograph: `make demo`.

Runs the two scripts as a user would and codes the photograph with JPEG, WebP and JPEG 2000 to the
size of SGA's file. Prints the results, and draws the reconstructions side by side.
"""

import argparse
import os
import tempfile

import numpy as np

import utils
from imaging import codecs, panels
from imaging.reading import read_image
from inference import scripts
from runtime import signals

RUN = scripts.demo_run("mbt2018")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="samples/astronaut.png")
    parser.add_argument("--output", default="demo", help="folder for the picture")
    args = parser.parse_args()

    original = read_image(args.image)
    # In the project's own format, as SGA's; the authors' spends more.
    base, base_pixels = compress("mbt2018", args, "--container")
    sga, sga_pixels = compress("sga", args, "--preset", "fast")
    ours = [("base model", base, base_pixels), ("SGA", sga, sga_pixels)]
    shown = [("original, 24 bpp", original)]
    print("\n{:10} {:>8} {:>8} {:>9} {:>9}".format("", "bytes", "bpp", "PSNR", "MS-SSIM"))
    for name, result, pixels in (*ours, *classical(original, sga["actual_bpp"])):
        bpp, psnr, msssim = (float(result[key]) for key in ("actual_bpp", "psnr", "msssim"))
        size = round(bpp * original.shape[0] * original.shape[1] / 8)
        line = "{:10} {:8} {:8.4f} {:6.2f} dB {:9.4f}"
        print(line.format(name, size, bpp, psnr, msssim))
        shown.append(("{}, {:.3f} bpp, {:.2f} dB".format(name, bpp, psnr), pixels))
    line = (
        "\nλ·MSE + bpp, which SGA minimises: {:.4f} for the base model, {:.4f} for SGA ({:+.1f}%)"
    )
    losses = base["est_rd_loss"], sga["est_rd_loss"]
    print(line.format(*losses, 100 * (losses[1] / losses[0] - 1)))
    picture = os.path.join(args.output, "side-by-side.png")
    panels.write(picture, shown)
    print("bpp: bits per pixel of the file. Picture: " + picture)


def compress(script, args, *flags):
    """Runs a script on the image; returns its result, a dict, and its reconstruction."""
    print("running {} on {}".format(script, args.image), flush=True)
    flags = ("--save_reconstruction", *flags)
    with tempfile.TemporaryDirectory() as folder:
        path = scripts.compress(script, RUN, args.image, folder, *flags)
        with np.load(path, allow_pickle=False) as result:
            values = {key: value[0] for key, value in result.items() if value.shape == (1,)}
        return values, read_image(path[: -len(".npz")] + ".png")


def classical(original, bpp):
    """Yields (name, result, reconstruction) of classical codecs at no more than `bpp`."""
    area = original.shape[0] * original.shape[1]
    for label, content, pixels in codecs.within_size(original, bpp * area / 8):
        quality = {**utils.ms_ssim(original, pixels), "psnr": codecs.psnr(original, pixels)}
        yield label, {"actual_bpp": 8 * len(content) / area, **quality}, pixels


if __name__ == "__main__":
    with signals.command("demo"):
        main()
