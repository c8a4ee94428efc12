"""Style, colours and saving of all figures."""

import collections
import functools
import itertools
import logging
import os

import matplotlib
import matplotlib.colors
import matplotlib.lines
import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
from matplotlib import font_manager, ft2font

from inference.scripts import METHODS
from runtime import console, files
from runtime.errors import InputError
from study.codecs import CODECS

plt.switch_backend("Agg")
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # "building the font cache"

# The colour-blind-safe palette of Okabe and Ito. Grey and the wine red of Tol's muted scheme
# replace yellow, which is too pale. One colour for each of the nine methods.
COLOURS = (
    *("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F"),
    "#882255",
)
OTHERS = ("#332288", "#999933", "#44AA99", "#AA4499", "#661100", "#6699CC")  # a user's methods
MUTED = ("#B5A68F", "#93A8B5", "#A595B8", "#9DB595", "#B89596", "#8FB3AE")  # classical codecs
MARKERS = "osD^vP*Xp"
LINES = ("-", "--", "-.", (0, (3, 1, 1, 1, 1, 1)))
FORMATS = ("png", "svg")
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "fontsize": "small"}  # of a legend
STYLE = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "svg.hashsalt": "study",  # so that redrawing a figure gives an identical file
}


def subplots(*args, **kwargs):
    """`plt.subplots` in the style of all figures."""
    with plt.rc_context(STYLE):
        return plt.subplots(*args, **kwargs)


def looks(names):
    """Keyword arguments of `plot` that make lines distinguishable.

    Each of the nine methods and each classical codec has a colour of its own, whatever else is
    drawn; other names get further colours in their order. Names with the same first word, a script,
    share a colour.

    Returns:
      dict from name to keyword arguments.
    """
    fixed = {**dict(zip(METHODS, COLOURS)), **dict(zip(CODECS, MUTED))}
    scripts = dict.fromkeys(name.split()[0] for name in names)
    others = [script for script in scripts if script not in fixed]
    fixed.update(zip(others, itertools.cycle(OTHERS)))
    places = [*METHODS, *CODECS, *others]
    used, found = collections.Counter(), {}
    for name in dict.fromkeys(names):
        script = name.split()[0]
        colour = fixed[script]
        same = used[colour]  # lines of the same script with other flags, or colours used up
        used[colour] += 1
        found[name] = {
            "color": colour,
            "marker": MARKERS[(places.index(script) + same) % len(MARKERS)],
            "linestyle": LINES[same % len(LINES)],
            "markersize": 5,
        }
        if script in CODECS:
            found[name].update(linewidth=1.2, markersize=4, zorder=1.8)
    return found


# --- Text of users ---------------------------------------------------------------------------


def plain(text):
    """Text of a user for a figure, so that Matplotlib shows it as it is.

    Otherwise what stands between two $ is a formula, and a line whose label begins with _ is not in
    the legend. Characters that no installed font has are replaced, and a note says so.
    """
    if _missing(text) and not _font_of(frozenset(text)):
        missing = _missing(text)
        _note_once("no installed font has {}: figures show � instead".format(", ".join(missing)))
        text = "".join("�" if character in missing else character for character in text)
    if text.startswith("_"):
        text = " " + text
    return text.replace("$", r"\$")


_note_once = functools.lru_cache(maxsize=None)(console.note)


def _missing(text):
    """The characters, sorted, that the font of all figures does not have."""
    glyphs = _glyphs(font_manager.findfont(font_manager.FontProperties()))
    return sorted(c for c in set(text) if c != "\n" and ord(c) not in glyphs)


@functools.lru_cache(maxsize=None)
def _glyphs(path):
    """Code points that a font has; none of one that cannot be drawn with."""
    try:
        font = ft2font.FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


@functools.lru_cache(maxsize=None)
def _font_of(characters):
    """Path of an installed font that has all of some characters, or None."""
    wanted = {ord(character) for character in characters} - {ord("\n")}
    paths = sorted({font.fname for font in font_manager.fontManager.ttflist})
    return next((path for path in paths if wanted <= _glyphs(path)), None)


def _choose_fonts(figure):
    """Gives each text that the font of all figures lacks characters of one that has them."""
    for text in figure.findobj(matplotlib.text.Text):
        path = _missing(text.get_text()) and _font_of(frozenset(text.get_text()))
        if path:
            properties = text.get_fontproperties().copy()
            properties.set_file(path)
            text.set_fontproperties(properties)


# --- Legends and files -----------------------------------------------------------------------


def line(label, **look):
    """A legend entry."""
    return matplotlib.lines.Line2D([], [], label=label, **look)


def save_all(figure, stem):
    """Writes a figure in all `FORMATS`; returns the paths, `stem` plus each extension."""
    paths = ["{}.{}".format(stem, suffix) for suffix in FORMATS]
    for path in paths:
        save(figure, path)
    return paths


def check(path):
    """Raises `InputError` unless a figure can be written to `path`."""
    if _suffix(path) not in FORMATS:
        raise InputError("{}: the name of a figure ends in .png or .svg".format(path))
    files.check_writable(path)


def _suffix(path):
    return os.path.splitext(path)[1][1:].lower()


def save(figure, path):
    """Writes a figure in the format given by the extension of `path`, and closes it."""
    check(path)
    _choose_fonts(figure)
    suffix = _suffix(path)
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with plt.rc_context(STYLE), files.atomic_write(path) as file:
        figure.savefig(file, format=suffix, metadata=metadata)
    plt.close(figure)


def pale(name):
    """A paler version of a colour map, for a background to draw on."""
    colours = plt.get_cmap(name)(np.linspace(0, 1, 256))
    return matplotlib.colors.ListedColormap(0.45 * colours + 0.55)


def part(name, low, high):
    """The part of a colour map from `low` to `high`, which are between 0 and 1."""
    colours = plt.get_cmap(name)(np.linspace(low, high, 256))
    return matplotlib.colors.ListedColormap(colours)
