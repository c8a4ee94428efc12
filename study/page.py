"""The page of a report: tables, figures and pictures in one HTML file that needs no other."""

import base64
import io
import os
import tempfile

import jinja2
import numpy as np
from PIL import Image

from imaging import codecs
from inference import scripts
from runtime import console, files
from runtime.errors import InputError
from study import command, documents, inputs, statistics, tables, tasks

NAME = "report.html"
TEMPLATE = "report.html"  # beside this file
CACHE = "pictures"  # folder in the output folder, for decoded images


def add_flags(parser):
    """Adds the flags for the pictures of a page."""
    add = parser.add_argument
    add(
        "--pictures",
        nargs="+",
        default=[],
        metavar="IMAGES",
        help="images of the results, as study.run takes them, to show in report.html: the "
        "original, the anchor's and a method's, which are decoded again",
    )
    add("--show", metavar="METHOD", help="method of --pictures (the one with the largest gain)")
    add(
        "--crop",
        type=command.size,
        metavar="WxH",
        help="centre crops of --pictures, if study.run took them",
    )
    parser.add_argument("--checkpoint_dir", **command.FLAGS["--checkpoint_dir"])


# --- Pictures --------------------------------------------------------------------------------


def pictures(table, args):
    """Decodes the pictures of --pictures, by running the scripts unless that was done before.

    Args:
      table: a `tables.frame` of comparable rows.
      args: the command line.

    Returns:
      list of dicts for the template, in order of falling gain.

    Raises:
      InputError: an image or method is not among the results.
    """
    if not args.pictures:
        return []
    images = inputs.find(args.pictures, args.crop)
    anchor = args.anchor[0]
    found = statistics.gains(table, anchor)
    if args.show is None and len(found):
        args.show = found.groupby("method")["gain"].mean().idxmax()
    of_method = found[found["method"] == args.show]
    if not len(of_method):
        names = ", ".join(found["method"].unique()) or "nothing"
        line = "--show: no gains of {} over {}, but of {}"
        raise InputError(line.format(args.show, anchor, names))
    lambdas = sorted(of_method["lambda"].unique())
    lmbda = lambdas[len(lambdas) // 2]
    of_anchor = table[(table["method"] == anchor) & (table["lambda"] == lmbda)]
    shown = []
    for image in images:
        rows = []
        for group in (of_anchor, of_method[of_method["lambda"] == lmbda]):
            same = (group["image_sha256"] == image.sha256) | (
                (group["image_sha256"] == "") & (group["image"] == image.name)
            )
            if not same.any():
                line = "--pictures: {}: no row has these pixels (--crop as study.run had it)"
                raise InputError(line.format(image.path))
            rows.append(group[same].iloc[0].to_dict())
        shown.append((image, *rows))
    shown.sort(key=lambda one: -one[2]["gain"])
    return [_picture(*one, args) for one in shown]


def _picture(image, base, row, args):
    original = inputs.read(image)
    versions = [{"label": "original", "caption": "24 bpp", "source": _png(original)}]
    for one in (base, row):
        pixels = _decoded(one, image, original, args)
        caption = "{:.4f} bpp, {:.2f} dB".format(one["est_bpp"], codecs.psnr(original, pixels))
        versions.append({"label": one["method"], "caption": caption, "source": _png(pixels)})
    height, width, _ = original.shape
    return {
        **{"name": image.name, "width": width, "height": height, "versions": versions},
        "title": "{}, λ = {:g}: gain {:.2f}%".format(image.name, row["lambda"], row["gain"]),
    }


def _decoded(row, image, original, args):
    """What a method makes of an image, uint8 (H, W, 3)."""
    script, flags = tasks.split(row["method"])
    name = tables.as_text("{}-{}-{:g}".format(image.name, row["method"], row["lambda"]))
    name = "{}-{}.png".format(name.replace("/", "-"), row["task"] or image.sha256[:16])
    path = os.path.join(args.output, CACHE, name)
    if not os.path.exists(path):
        files.check_writable(path)
        console.note("decoding {} by {}".format(image.name, row["method"]))
        flags += ["--lambda", repr(row["lambda"]), "--save_reconstruction"]
        flags += ["--seed", row["seed"]] if row["seed"] not in ("", "0", 0) else []
        with tempfile.TemporaryDirectory() as folder:
            pixels = os.path.join(folder, image.name + ".npy")
            np.save(pixels, original[None])
            place = {"checkpoint_dir": args.checkpoint_dir, "quiet": True}
            result = scripts.compress(script, row["model"], pixels, folder, *flags, **place)
            files.write_bytes(path, files.read_bytes(result[: -len(".npz")] + ".png"))
    return np.asarray(Image.open(path).convert("RGB"))


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
