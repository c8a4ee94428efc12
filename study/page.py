"""The page of a report: tables, figures and pictures in one HTML file that needs no other."""

import base64
import io
import os
import tempfile

import jinja2
import numpy as np
from PIL import Image

from imaging.codecs import psnr
from inference import scripts
from model import checkpoints
from runtime import console, files
from runtime.errors import InputError
from study import codecs, command, documents, inputs, statistics, tables, tasks

NAME = "report.html"
TEMPLATE = "report.html"  # beside this file
CACHE = "pictures"  # folder in the output folder, for decoded images
SAME_RATE, SAME_PSNR = 0.005, 0.03  # by which a run again may differ: relatively, and in dB


def add_flags(parser):
    """Adds the flags for the pictures of a page."""
    add = parser.add_argument
    add(
        "--pictures",
        nargs="+",
        default=[],
        metavar="IMAGES",
        help="images of the results, as study.run takes them, to show in report.html: the "
        "original, the anchor's and those of --show, which are decoded again",
    )
    add(
        "--show",
        nargs="+",
        metavar="METHOD",
        help="methods of --pictures, and classical codecs, at the quality nearest in rate (the "
        "method with the largest gain)",
    )
    add(
        "--crop",
        type=command.size,
        metavar="WxH",
        help="centre crops of --pictures, if study.run took them",
    )
    parser.add_argument("--checkpoint_dir", **command.FLAGS["--checkpoint_dir"])


# --- Pictures --------------------------------------------------------------------------------


def pictures(table, args):
    """Decodes the pictures of --pictures, by running the methods unless that was done before.

    Args:
      table: a `tables.frame` of comparable rows.
      args: the command line.

    Returns:
      list of dicts for the template, in order of falling gain.

    Raises:
      InputError: an image or method is not among the results.
    """
    if not args.pictures:
        for name in ("show", "crop"):
            if getattr(args, name):
                raise InputError("--{}: has no effect without --pictures".format(name))
        return []
    images = inputs.find(args.pictures, args.crop)
    anchor = args.anchor[0]
    found = statistics.gains(table, anchor)
    gains = found.groupby("method")["gain"].mean()
    classical = [method for method in args.show or () if method in codecs.CODECS]
    shown = [method for method in args.show or () if method not in classical]
    shown = shown or list(gains.nlargest(1).index) or [None]
    lambdas = sorted(found["lambda"][found["method"] == shown[0]].unique())
    lmbda = lambdas[len(lambdas) // 2] if lambdas else None
    at_lambda = found[found["lambda"] == lmbda]
    groups = [table[(table["method"] == anchor) & (table["lambda"] == lmbda)]]
    groups += [at_lambda[at_lambda["method"] == method] for method in shown]
    groups += [table[table["method"] == codec] for codec in classical]
    for method, group in zip([*shown, *classical], groups[1:]):
        if not len(group):
            names = ", ".join([*gains.index, *sorted(codecs.CODECS.keys() & {*table["method"]})])
            line = "--show: no gains of {} over {}, but of {}"
            raise InputError(line.format(method, anchor, names or "nothing"))
    made = []
    for image in images:
        rows = []
        for group in groups:
            same = (group["image_sha256"] == image.sha256) | (
                (group["image_sha256"] == "") & (group["image"] == image.name)
            )
            if not same.any():
                line = "--pictures: {}: no row has these pixels (--crop as study.run had it)"
                raise InputError(line.format(image.path))
            # Of a codec the quality with the rate nearest to the first method's.
            rate = rows[1]["est_bpp"] if len(rows) > len(shown) else np.nan
            nearest = np.argmin(np.abs(group["est_bpp"][same].values - rate))
            rows.append(group[same].iloc[nearest].to_dict())
        made.append((image, rows))
    made.sort(key=lambda one: -one[1][1]["gain"])
    return [_picture(*one, args) for one in made]


def _picture(image, rows, args):
    original = inputs.read(image)
    versions = [{"label": "original", "caption": "24 bpp", "source": _png(original)}]
    for row in rows:
        pixels = _decoded(row, image, original, args)
        caption = "{:.4f} bpp, {:.2f} dB".format(row["est_bpp"], psnr(original, pixels))
        quality = ", quality {:g}".format(row["quality"]) if row["quality"] != "" else ""
        label = row["method"] + quality
        versions.append({"label": label, "caption": caption, "source": _png(pixels)})
    height, width, _ = original.shape
    words = image.name, rows[1]["lambda"], rows[1]["gain"], rows[1]["method"]
    return {
        **{"name": image.name, "width": width, "height": height, "versions": versions},
        "title": "{}, λ = {:g}: gain {:.2f}% by {}".format(*words),
    }


def _decoded(row, image, original, args):
    """What a method makes of an image, uint8 (H, W, 3)."""
    if row["method"] in codecs.CODECS:
        codec = codecs.CODECS[row["method"]]
        if codec.missing():
            raise InputError("--show: {}: {}".format(row["method"], codec.missing()))
        return codec.decode(codec.encode(original, codec.number(row["quality"]), 1), 1)
    script, flags = tasks.split(row["method"])
    figures = image.name, row["method"], row["lambda"], row["psnr"]
    name = tables.as_text("{}-{}-{:g}-{:.3f}".format(*figures))
    digest = row["task"] or image.sha256[:16] + row["checkpoint_sha256"][:8]
    name = "{}-{}.png".format(name.replace("/", "-"), digest)
    path = os.path.join(args.output, CACHE, name)
    if not os.path.exists(path):
        files.check_writable(path)
        if row["checkpoint_sha256"]:
            run = checkpoints.find_run(args.checkpoint_dir, row["model"])
            if checkpoints.checkpoint_sha256(run.checkpoint) != row["checkpoint_sha256"]:
                line = "--checkpoint_dir: {} is not the checkpoint of the results"
                raise InputError(line.format(run.checkpoint))
        console.note("decoding {} by {}".format(image.name, row["method"]))
        flags += ["--lambda", repr(row["lambda"]), "--save_reconstruction"]
        flags += ["--seed", row["seed"]] if row["seed"] not in ("", "0", 0) else []
        with tempfile.TemporaryDirectory() as folder:
            pixels = os.path.join(folder, image.name + ".npy")
            np.save(pixels, original[None])
            place = {"checkpoint_dir": args.checkpoint_dir, "quiet": True}
            result = scripts.compress(script, row["model"], pixels, folder, *flags, **place)
            _check_same(row, image, tables.load(result))
            files.write_bytes(path, files.read_bytes(result[: -len(".npz")] + ".png"))
    return np.asarray(Image.open(path).convert("RGB"))


def _check_same(row, image, result):
    """Raises `InputError` unless a run reached about the rate and PSNR of the row it repeats.

    A row may be of a result with flags that its method's name does not tell.
    """
    rate, quality = row["est_bpp"], row["psnr"]
    our_rate, our_quality = (float(result[key][0]) for key in ("est_bpp", "psnr"))
    if abs(our_rate / rate - 1) > SAME_RATE or abs(our_quality - quality) > SAME_PSNR:
        line = (
            "--pictures: {}: {} gives {:.4f} bpp and {:.2f} dB, not {:.4f} and {:.2f} as in its "
            "row, which other flags may have made; results of study.run name them all"
        )
        names = image.name, row["method"]
        raise InputError(line.format(*names, our_rate, our_quality, rate, quality))


def _png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return _source(content.getvalue(), "image/png")


# --- The page --------------------------------------------------------------------------------


def render(made, notes, drawn, shown):
    """The page, as bytes.

    Args:
      made: list of `documents.Table`.
      notes: list of str.
      drawn: paths of figures, of which those in SVG are shown.
      shown: as `pictures` returns them.
    """
    loader = jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(__file__)))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.undefined = jinja2.StrictUndefined
    figures = [
        {"name": os.path.basename(path), "source": _source(files.read_bytes(path), "image/svg+xml")}
        for path in drawn
        if path.endswith(".svg")
    ]
    parts = [
        {
            **{"name": one.name, "title": one.title, "notes": one.notes},
            **{"headers": documents.headers(one), "cells": documents.cells(one)},
            "classes": ["text" if left else "number" for left in documents.lefts(one)],
        }
        for one in made
    ]
    template = environment.get_template(TEMPLATE)
    return template.render(tables=parts, notes=notes, figures=figures, pictures=shown).encode()


def _source(content, kind):
    return "data:{};base64,{}".format(kind, base64.b64encode(content).decode())
