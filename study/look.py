"""One image coded from a model's own prediction and by a method, with maps of the bits.

    python -m study.look samples/chelsea.png
    python -m study.look samples/coffee.png --method "bb_sga --preset fast"

Compresses the image with the script that only predicts (mbt2018.py, or bb_plain.py for methods of
the bits-back model) and with the method, decodes both files, and draws: the two next to the
original, with PSNR, bits per pixel (the estimate in the result; for bits-back the net rate at the z
that was coded), file size and the outline of a --weight_map; the square window with the largest
squared difference between the two; and the bits of y at each position, -log2 p(y|z) summed over the
channels. Files, results and figure are written to the output folder.
"""

import collections
import os
import re
import tempfile
import textwrap

import matplotlib.colors
import matplotlib.patches
import numpy as np

import utils
from coding import readers
from imaging import codecs
from inference import regions, scripts
from inference.methods import find_method
from model import checkpoints, hyperprior
from runtime import files
from runtime.errors import InputError
from runtime.quiet_tf import tf
from study import command, figures, tables, tasks

STRIDE = 16  # pixels per latent, in either direction

Coded = collections.namedtuple("Coded", "name pixels bits result")
Coded.__doc__ = """An image decoded from a method's file.

name: the method with its flags; pixels: uint8 (H, W, 3); bits: (h, w), bits of y at each position;
result: contents of the result file, a dict.
"""


def code(words, run, args):
    """Compresses the image with the method's script and decodes the file; returns `Coded`.

    Args:
      words: script and flags.
      run: `checkpoints.Run` of the model.
      args: the command line.
    """
    script, *flags = words
    print("running {}.py on {}".format(script, args.image), flush=True)
    path = output_path(args, words, ".tfci")
    # Both runs would say the same of the image: the method's, which comes last, does.
    first = script == scripts.MODELS[find_method(script).model_class.name][0]
    place = {"checkpoint_dir": args.checkpoint_dir, "quiet": first}
    kept = output_path(args, words, ".npz")  # not by the name that the script gives it
    with tempfile.TemporaryDirectory() as folder:
        result = scripts.compress(script, args.runname, args.image, folder, path, *flags, **place)
        files.write_bytes(kept, files.read_bytes(result))
    result = tables.load(kept)
    pixels, bits = decode(files.read_bytes(path), run, find_method(script))
    return Coded(" ".join(words), pixels, bits, result)


def output_path(args, words, suffix):
    """Path of an output file, named by the image and by the method with its flags."""
    image = os.path.splitext(os.path.basename(args.image))[0]
    method = re.sub(r"[^\w.]+", "-", " ".join(words))
    return os.path.join(args.output, "{}-{}{}".format(image, method, suffix))


def decode(content, run, method):
    """Decodes a file of one image to pixels, uint8 (H, W, 3), and bits of y per position, (h, w).

    Args:
      content: the bytes of the file.
      run: `checkpoints.Run` of the model.
      method: the `methods.Method` that wrote it.
    """
    reader = readers.read(content)
    weights = checkpoints.load(method.model_class, run)
    ((_, latents),) = reader.latents(run, weights)
    with tf.Graph().as_default(), tf.Session() as session:
        model = hyperprior.build(
            method.model_class, weights, sigma_min=method.sigma_min, step=reader.spacing
        )
        y, z = (tf.constant(latents[name][None], tf.float32) for name in "yz")
        pixels = utils.to_uint8(model.synthesis(y, (reader.height, reader.width)))
        nats = -tf.reduce_sum(tf.math.log(model.p_y(y, z)), axis=3)
        pixels, nats = session.run([pixels[0], nats[0]])
    return pixels, nats / np.log(2)


def most_different(a, b, side, inside):
    """Top and left of the square window with the largest squared difference between two images.

    Args:
      a, b: (H, W, 3).
      side: side length of the window, in pixels.
      inside: bool (H, W), the pixels that count.
    """
    squares = np.square(a.astype(np.int64) - b).sum(axis=2) * inside
    sums = np.pad(squares, ((1, 0), (1, 0)), "constant").cumsum(axis=0).cumsum(axis=1)
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.unravel_index(int(np.argmax(windows)), windows.shape)


# --- The picture -----------------------------------------------------------------------------


def draw(title, original, base, method, side):
    """Draws the figure: a row of images, one of the window where they differ most, one of bits.

    Args:
      title: title of the figure.
      original: uint8 (H, W, 3).
      base, method: `Coded`.
      side: side length of the window, in pixels.
    """
    height, width, _ = original.shape
    weight_map, inside = str(method.result.get("weight_map", "")), np.ones((height, width), bool)
    if weight_map:
        inside = utils.read_image(weight_map)[..., 0] >= regions.HALF
        if not inside.any():  # a map that is dark everywhere has no region to show
            weight_map, inside = "", ~inside
    top, left = most_different(base.pixels, method.pixels, side, inside)
    window = (slice(top, top + side), slice(left, left + side))
    shape = np.clip(height / width, 0.3, 1.5)
    column = 3.6 / max(shape, 1) ** 0.7  # inches
    figure, axes = figures.subplots(
        3,
        3,
        figsize=(3 * column + 0.3, (2 * shape + 1) * column + 2.6),
        dpi=np.clip(width / column, 130, 300),
        gridspec_kw={"height_ratios": (shape, 1, shape)},
    )
    figure.set_constrained_layout_pads(h_pad=0.08)
    figure.suptitle(figures.plain(title), fontsize="medium")
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])

    panels = [(original, "original\n24 bpp\n")]
    for coded in (base, method):
        panels.append((coded.pixels, "\n".join([lines(coded.name), *caption(coded)])))
    for ax, (pixels, label) in zip(axes[0], panels):
        ax.imshow(pixels)
        ax.set_xlabel(figures.plain(label))
        for colour, line in (("black", 3), ("white", 1.5)):
            frame = matplotlib.patches.Rectangle((left - 0.5, top - 0.5), side, side, fill=False)
            frame.set(edgecolor=colour, linewidth=line)
            ax.add_patch(frame)
        if weight_map:
            ax.contour(inside, levels=[0.5], colors="yellow", linewidths=1)
    for ax, (pixels, _) in zip(axes[1], panels):
        ax.imshow(pixels[window], interpolation="nearest")
    where = ", of the region" if weight_map else ""
    text = "where the two differ most{1}:\n{0} × {0} pixels"
    axes[1, 0].set_xlabel(text.format(side, where))
    for ax, coded in zip(axes[1, 1:], (base, method)):
        db = codecs.psnr(coded.pixels[window], original[window])
        label = "{}\nin this window {:.2f} dB".format(lines(coded.name), db)
        ax.set_xlabel(figures.plain(label))

    _draw_bits(figure, axes[2], base, method, (height, width))
    return figure


def _draw_bits(figure, axes, base, method, size):
    """Draws maps into three axes: the change in bits, and the bits of each method."""
    height, width = size
    rows, columns = base.bits.shape
    style = {"extent": (0, STRIDE * columns, STRIDE * rows, 0), "interpolation": "nearest"}
    most = max(base.bits.max(), method.bits.max())
    for ax, coded in zip(axes[1:], (base, method)):
        shown = ax.imshow(coded.bits, vmin=0, vmax=most, **style)
        y = coded.bits.sum()
        z = estimate(coded.result) * height * width - y
        net = "net " if "net_bpp" in coded.result else ""
        text = "{}\ny {:.0f} bits (shown), z {}{:.0f} bits"
        ax.set_xlabel(figures.plain(text.format(lines(coded.name), y, net, z)))
    bar = {"location": "bottom", "pad": 0.03}
    figure.colorbar(shown, ax=list(axes[1:]), aspect=40, **bar).set_label("bits of y " + WHERE)
    change = method.bits - base.bits
    most = np.abs(change).max() or 1
    shown = axes[0].imshow(change, cmap="PuOr", vmin=-most, vmax=most, **style)
    bits = "{:+.0f}".format(change.sum()).replace("-", "−")
    names = lines("{} less {}".format(method.name, base.name))
    axes[0].set_xlabel(figures.plain("{}\ny {} bits".format(names, bits)))
    figure.colorbar(shown, ax=axes[0], aspect=20, **bar).set_label("change of bits " + WHERE)
    for ax in axes:
        ax.set(xlim=(0, width), ylim=(height, 0))


WHERE = "per 16 × 16 pixels"
WIDTH = 38  # letters of a line below an image


def lines(name):
    """A method's name in lines short enough to stand below an image."""
    return "\n".join(textwrap.wrap(name, WIDTH, break_on_hyphens=False))


def caption(coded):
    """The lines under an image and its name: a list of str."""
    result, (height, width, _) = coded.result, coded.pixels.shape
    net = "net_bpp" in result
    size = result["net_bpp" if net else "actual_bpp"][0] * height * width / 8
    found = [
        "{:.4f} bpp, {:.2f} dB".format(estimate(result), result["psnr"][0]),
        "file{}: {:.0f} bytes".format(", net" if net else "", size),
    ]
    if "psnr_inside" in result:
        parts = (result["psnr_" + part][0] for part in ("inside", "outside"))
        found.append("{:.2f} dB inside, {:.2f} dB outside".format(*parts))
    return found


def estimate(result):
    """Estimated bits per pixel; for bits-back, the net rate at the z that was coded."""
    return result.get("est_bpp_coded", result["est_bpp"])[0]


# --- The command -----------------------------------------------------------------------------


def main(argv=None):
    args = parse(argv)
    script, flags = tasks.split(args.method)
    model = find_method(script).model_class
    base = scripts.MODELS[model.name][0]
    if script == base:
        raise InputError("--method {}: this is what others are compared with".format(script))
    args.runname = args.runname or scripts.demo_run(model.name)
    images = utils.Images(args.image)
    if images.shape[0] > 1:
        raise InputError("{}: {} images; take one".format(args.image, images.shape[0]))
    if min(images.shape[1:3]) < args.window:
        height, width = images.shape[1:3]
        raise InputError(
            "{}: {} × {} pixels, smaller than --window".format(args.image, width, height)
        )
    (original,) = next(images.batches(1))
    run = checkpoints.find_run(args.checkpoint_dir, args.runname)
    # Refuse a run of the other model, and wrong flags, before anything is computed.
    checkpoints.load(model, run)
    tasks.parse(script, flags, run.name)
    path = output_path(args, [script, *flags], ".png")
    figures.check(path)

    name = tables.as_text(os.path.basename(args.image))
    title = "{}, {} × {} pixels; {}".format(name, *original.shape[1::-1], run.name)
    coded = [code(words, run, args) for words in ([base], [script, *flags])]
    figures.save(draw(title, original, *coded, args.window), path)
    for one in coded:
        print(", ".join([one.name, *caption(one)]))
    print("wrote " + path)


def parse(argv):
    parser = command.parser("study.look", __doc__, "--checkpoint_dir")
    add = parser.add_argument
    add("image", nargs="?", default="samples/chelsea.png", help="image file (%(default)s)")
    add(
        "--method",
        default="sga",
        metavar="'SCRIPT FLAGS'",
        help="script, and its flags for compress (%(default)s)",
    )
    add("--runname", default="", help="run folder (the shipped model of the highest rate)")
    add("--window", type=command.positive, default=96, help="pixels of the close-up (%(default)s)")
    command.add_output(parser, "look")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main)
