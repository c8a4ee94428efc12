"""The loss over two latents of a photograph, and SGA's path through it.

    python -m study.sga_landscape

Optimises a crop of a photograph with sga.py's method, picks two neighbouring latents that SGA
rounds to other integers than the rounded prediction, and draws λ·255²·MSE + bpp, in bits for the
whole crop, as a function of both. All other latents, z included, are fixed at SGA's final integers:
this is the landscape at the end of the optimisation, not at its start. `choose_pair` explains how
the pair is chosen. The figure is determined by the seed.
"""

import collections
import itertools
import os

import matplotlib.collections
import matplotlib.colors
import matplotlib.ticker
import numpy as np

import sga
import tf_boilerplate
import utils
from inference.evaluation import Evaluation
from model import checkpoints, hyperprior
from runtime import console, errors
from runtime.errors import InputError
from runtime.quiet_tf import tf
from study import command, figures

POINTS = 400  # most points of the path that are kept
SAMPLES = 200  # points of the path at which the relaxed sample is drawn
BATCH = 16  # losses computed at a time
MARGIN = 0.75  # margin of the figure around the path, in units of a latent
PER_UNIT = 16  # grid points per unit of a latent, in the figure


class WatchedSGA(sga.SGA):
    """SGA that keeps its relaxed sample (a dict of tensors) for inspection."""

    def relaxed(self, t, y, z):
        self.sample = super().relaxed(t, y, z)
        return self.sample


Way = collections.namedtuple("Way", "its y y_tilde y_hat z_hat")
Way.__doc__ = """The path of SGA through the latents of one image.

its: (n,), numbers of iterations done; y, y_tilde: (n, h, w, C), the parameters after these, and the
relaxed sample of the next iteration; y_hat, z_hat: (h, w, C), the final integers.
"""


def watch(pixels, weights, args):
    """Optimises an image and records its y at regular intervals; returns a `Way`.

    Args:
      pixels: uint8 (H, W, 3).
      weights: as `checkpoints.load` returns them.
      args: the command line of sga.py.
    """
    evaluation = Evaluation(WatchedSGA, weights, (1, *pixels.shape), args)
    session, method = evaluation.session, evaluation.method
    (stage,) = method.stages
    every = -(-stage.its // POINTS)
    look = session.make_callable([stage.latents["y"], method.sample["y"]])
    evaluation.begin(pixels[None])
    session.run(stage.start)  # `stage.run` below repeats this
    seen = [(0, *look())]
    with console.Progress(stage.its, title="SGA") as progress:

        def step(done):
            if done % every == 0 or done == stage.its:
                seen.append((done, *look()))
            progress.update(done)

        stage.run(session, step, lambda *figures: None)
    its, y, y_tilde = (np.array(values) for values in zip(*seen))
    z = session.run(stage.latents["z"])[0]
    return Way(its, y[:, 0], y_tilde[:, 0], np.rint(y[-1, 0]), np.rint(z))


def losses(weights, pixels, lmbda, way):
    """Makes a function from changes of y_hat to R-D losses in bits for the image.

    Args:
      weights: as `checkpoints.load` returns them.
      pixels: uint8 (H, W, 3).
      lmbda: λ.
      way: `Way` with the y_hat to change and the z_hat to keep.

    Returns:
      Function `bits(changes)` that returns losses (n,) for a list of n dicts, each from
      (row, column, channel) to the new value of this latent.
    """
    with tf.Graph().as_default():
        model = hyperprior.build(sga.SGA.model_class, weights)
        x = tf.constant(np.repeat(pixels[None] / np.float32(255), BATCH, axis=0))
        z = tf.constant(np.repeat(way.z_hat[None], BATCH, axis=0))
        y = tf.placeholder(tf.float32, (BATCH, *way.y_hat.shape))
        _, metrics = model.rate_distortion(x, lmbda, y, z=z)
        run = tf.Session().make_callable(metrics["rd_loss"], [y])

    def bits(changes):
        values = []
        for start in range(0, len(changes), BATCH):
            batch = np.repeat(way.y_hat[None], BATCH, axis=0)
            for y, changed in zip(batch, changes[start : start + BATCH]):
                for latent, value in changed.items():
                    y[latent] = value
            values.append(run(batch))
        num_pixels = pixels.shape[0] * pixels.shape[1]
        return np.concatenate(values)[: len(changes)].astype(np.float64) * num_pixels

    return bits


def choose_pair(bits, y_start, y_hat):
    """Chooses the pair of latents with the most informative landscape.

    SGA's final integers for both differ from the rounded prediction, and the two are neighbours in
    one channel, so that the loss of one depends on the other. SGA's integers are also the best of
    all near them (from one below to one above both roundings). Of all such pairs, we take the one
    that is the most expensive to undo: undoing one change, the other or both each has a cost, and
    the least of the three is as large as possible.

    Args:
      bits: function returned by `losses`.
      y_start: (h, w, C), the prediction.
      y_hat: (h, w, C), the final integers.

    Returns:
      Two tuples (row, column, channel).

    Raises:
      InputError: there is no such pair.
    """
    before = np.rint(y_start)
    moved = sorted(map(tuple, np.argwhere(before != y_hat).tolist()))
    one = dict(zip(moved, bits([{latent: before[latent]} for latent in moved]) if moved else []))
    steps = ((0, 1, 0), (1, -1, 0), (1, 0, 0), (1, 1, 0))  # to half of the neighbours
    ends = ((a, tuple(np.add(a, step).tolist())) for a in moved for step in steps)
    pairs = [pair for pair in ends if pair[1] in one]
    both = bits([{latent: before[latent] for latent in pair} for pair in pairs]) if pairs else []
    least = {pair: min(one[pair[0]], one[pair[1]], loss) for pair, loss in zip(pairs, both)}
    for pair in sorted(least, key=lambda pair: -least[pair]):
        integers = [
            np.arange(
                min(before[latent], y_hat[latent]) - 1, max(before[latent], y_hat[latent]) + 2
            )
            for latent in pair
        ]
        around = list(itertools.product(*integers))
        best = around[int(np.argmin(bits([dict(zip(pair, values)) for values in around])))]
        if best == tuple(y_hat[latent] for latent in pair):
            return pair
    raise InputError(
        "no two neighbouring latents that SGA improves by rounding them elsewhere: "
        "take more iterations or a larger crop"
    )


Points = collections.namedtuple("Points", "rounded rounded_loss best best_loss")
Points.__doc__ = (
    """Rounded prediction and SGA's integers of two latents, and the losses there in bits."""
)


def compare(bits, pair, way):
    """The `Points` of a pair."""
    integers = np.rint(way.y[0]), way.y_hat
    rounded, best = (tuple(y[latent] + 0.0 for latent in pair) for y in integers)  # no -0
    rounded_loss, best_loss = bits([dict(zip(pair, rounded)), dict(zip(pair, best))])
    return Points(rounded, rounded_loss, best, best_loss)


def grid(bits, pair, axes):
    """Losses over both latents of a pair, (len(axes[1]), len(axes[0])), with the first along x."""
    points = itertools.product(*reversed(axes))
    values = bits([dict(zip(pair, point[::-1])) for point in points])
    return values.reshape(len(axes[1]), len(axes[0]))


# --- The picture -----------------------------------------------------------------------------


def axes_of(way, pair):
    """Values of each latent that the figure shows: a square around the path, with a margin."""
    walks = [way.y[(slice(None), *latent)] for latent in pair]
    ends = np.array([(np.floor(walk.min()), np.ceil(walk.max())) for walk in walks])
    centres, half = ends.mean(axis=1), np.ptp(ends, axis=1).max() / 2 + MARGIN
    steps = np.arange(-half, half + 0.5 / PER_UNIT, 1 / PER_UNIT)
    return [centre + steps for centre in centres]


def draw(way, pair, axes, values, points, title):
    """A figure of the landscape and the way through it.

    Args:
      way, pair: as `watch` and `choose_pair` return them.
      axes, values: as `axes_of` returns them, and the losses in bits there, from `grid`.
      points: `Points`.
      title: title of the figure.
    """
    ratios = {"height_ratios": (1, 0.16)}
    figure, (ax, below) = figures.subplots(2, 1, figsize=(8.4, 7.55), dpi=150, gridspec_kw=ratios)
    ax.set_title(figures.plain(title), fontsize="medium")
    ax.grid(False)
    below.axis("off")

    above = values - points.best_loss
    locator = matplotlib.ticker.MaxNLocator(25, steps=(1, 2, 5, 10))
    levels = locator.tick_values(0, np.percentile(above, 97))
    filled = ax.contourf(*axes, above, levels, cmap=figures.pale("viridis"), extend="both")
    ax.contour(filled, colors="white", linewidths=0.4)
    bar = figure.colorbar(filled, ax=ax, pad=0.02, aspect=30, ticks=levels[::4])
    bar.set_label("R-D loss in bits, above that of the best integer point")

    integers = [np.arange(np.ceil(axis[0]), axis[-1]) for axis in axes]
    dots = [values.ravel() for values in np.meshgrid(*integers)]
    keys = ax.plot(*dots, ".", color="black", markersize=4, label="integer points")
    shown, way_keys = _draw_way(ax, way, pair)
    bar = figure.colorbar(shown, ax=ax, pad=0.02, aspect=30)
    bar.set_label("iteration of SGA")
    keys += way_keys
    keys += _mark(ax, [way.y[(0, *latent)] for latent in pair], "o", 8, "the network's prediction")
    label = "prediction rounded to ({:.0f}, {:.0f}): {:.1f} bits"
    keys += _mark(ax, points.rounded, "s", 11, label.format(*points.rounded, points.rounded_loss))
    label = "best integer point, SGA's result, ({:.0f}, {:.0f}): {:.1f} bits"
    keys += _mark(ax, points.best, "*", 19, label.format(*points.best, points.best_loss))
    below.legend(handles=keys, loc="center", ncol=2, frameon=False, columnspacing=1.5)

    label = "y at row {}, column {}, channel {}".format
    ax.set(xlabel=label(*pair[0]), ylabel=label(*pair[1]))
    ax.set(xticks=integers[0], yticks=integers[1], xlim=axes[0][[0, -1]], ylim=axes[1][[0, -1]])
    return figure


def _draw_way(ax, way, pair):
    """Draws the parameters as a line and relaxed samples as points, coloured by iteration.

    Returns the artist for a colour bar, and two keys for the legend.
    """
    colours = figures.part("inferno", 0, 0.85)
    style = {"cmap": colours, "norm": matplotlib.colors.Normalize(0, way.its[-1])}
    walk, samples = (
        np.stack([values[(slice(None), *latent)] for latent in pair], axis=1)
        for values in (way.y, way.y_tilde)
    )
    ax.plot(*walk.T, color="white", linewidth=4.5, solid_capstyle="round")
    segments = np.stack([walk[:-1], walk[1:]], axis=1)
    line = matplotlib.collections.LineCollection(segments, linewidths=2.5, **style)
    line.set(array=way.its[1:], capstyle="round")
    ax.add_collection(line)
    few = np.unique(np.linspace(0, len(way.its) - 1, SAMPLES).astype(int))
    edge = {"s": 22, "edgecolors": "white", "linewidths": 0.6, "zorder": 4}
    shown = ax.scatter(*samples[few].T, c=way.its[few], **edge, **style)
    key = {"color": colours(0.5), "markeredgecolor": "white"}
    keys = ax.plot([], [], linewidth=2.5, label="parameters of SGA", **key)
    keys += ax.plot([], [], "o", markersize=5, label="relaxed samples of SGA", **key)
    return shown, keys


def _mark(ax, point, marker, size, label):
    style = {"markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 1.3}
    label = label.replace("-", "−")
    return ax.plot(*point, marker, markersize=size, zorder=3, label=label, **style)


# --- The command -----------------------------------------------------------------------------


def main(argv=None):
    args = parse(argv)
    figures.check(args.output)
    argv = ["--checkpoint_dir", args.checkpoint_dir, "compress", args.runname, args.image]
    argv += ["--seed", args.seed, "--sga_its", args.sga_its]
    settings = tf_boilerplate.parse("sga", "", sga.SGA, None, argv)
    run = checkpoints.find_run(settings.checkpoint_dir, settings.runname)
    settings.lmbda = checkpoints.lambda_of(run, settings.lmbda)
    pixels = utils.read_image(args.image, console.note)
    with errors.naming(args.image):
        pixels = utils.centre_crop(pixels, args.crop)
    weights = checkpoints.load(sga.SGA.model_class, run)
    way = watch(pixels, weights, settings)

    bits = losses(weights, pixels, settings.lmbda, way)
    pair = choose_pair(bits, way.y[0], way.y_hat)
    points = compare(bits, pair, way)
    print("latents (row, column, channel) of y: {} and {}".format(*pair))
    for name, point, loss in (
        ("rounded prediction", points.rounded, points.rounded_loss),
        ("best integer point", points.best, points.best_loss),
    ):
        print("{} ({:.0f}, {:.0f}): R-D loss {:.2f} bits".format(name, *point, loss))
    axes = axes_of(way, pair)
    title = "{}, {} × {} pixels: two of {} latents y, the others as SGA rounds them".format(
        os.path.basename(args.image), *pixels.shape[1::-1], way.y_hat.size
    )
    figures.save(draw(way, pair, axes, grid(bits, pair, axes), points, title), args.output)
    print("wrote " + args.output)


def parse(argv):
    parser = command.parser("study.sga_landscape", __doc__, "--runname", "--checkpoint_dir")
    add = parser.add_argument
    add("--image", default="samples/coffee.png", metavar="FILE", help="image (%(default)s)")
    add(
        "--crop",
        type=command.size,
        default="192x128",
        metavar="WxH",
        help="size of the centre crop to optimise (%(default)s)",
    )
    add("--sga_its", default="2000", metavar="ITS", help="iterations of SGA (%(default)s)")
    add("--seed", default="0", help="seed of SGA (%(default)s)")
    command.add_output(parser, "./sga_landscape.png", "FILE", "figure, .png or .svg ")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main)
