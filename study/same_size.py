"""PSNR above that of classical codecs at the same file size, image by image.

    python -m study.same_size results/mine/images.csv 'kodak/*.png' --output results/mine

reads the table of a study and its images, codes each image with JPEG, WebP and JPEG 2000 (Pillow;
`imaging.codecs`) to the size of each file that the table has (column net_bpp, or actual_bpp), and
prints, for each method and model, the mean rate and PSNR of its files and by how many dB they lie
above each codec; with --published, also above a published curve at the mean rate. The output folder
receives the table as same_size.csv and same_size.md.
"""

import collections
import itertools
import os

import numpy as np

from imaging import codecs
from runtime import console, files
from runtime.errors import InputError
from study import command, curves, documents, inputs, tables

COLUMNS = (
    "method",
    "model",
    "lambda",
    "images",
    "files",
    "bpp",
    "psnr",
    *codecs.PILLOW,
    "published",
)
COLUMNS += tuple(codec + "_images" for codec in codecs.PILLOW)


def main(argv=None):
    args = parse(argv)
    paths = [os.path.join(args.output, "same_size" + ending) for ending in (".csv", ".md")]
    for path in paths:
        files.check_writable(path)
    images = {image.name: image for image in inputs.find(args.images, args.crop)}
    groups, curve = groups_of(args.table, images, args.dataset), published(args.published)
    pixels = {name: inputs.read(image) for name, image in images.items()}
    number = sum(map(len, groups.values())) * len(codecs.PILLOW)
    rows, done = [], itertools.count(1)
    with console.Progress(number) as progress:
        several = len({key[:2] for key in groups}) < len(groups)
        for (method, model, lmbda), found in groups.items():
            row = means(found, pixels, lambda: progress.update(next(done)))
            row.update(method=method, model=model)
            if several:
                row["lambda"] = lmbda
            if curve is not None:
                # Nothing is known beyond the ends of the curve.
                there = np.interp(np.log(row["bpp"]), *curve, left=np.nan, right=np.nan)
                row["published"] = "" if np.isnan(there) else row["psnr"] - there
            rows.append(row)
    shown = table(rows)
    print(documents.as_text(shown))
    content = tables.to_csv([{**dict.fromkeys(COLUMNS, ""), **row} for row in rows], COLUMNS)
    for path, part in zip(paths, (content, documents.as_markdown(shown).encode() + b"\n")):
        files.write_bytes(path, part)
    print("wrote {}".format(", ".join(paths)))


def parse(argv):
    parser = command.parser("study.same_size", __doc__, positional="table images [images ...]")
    add = parser.add_argument
    add("table", type=os.path.expanduser, help="images.csv of a study, whose files have sizes")
    add("images", nargs="+", help="the study's images: files, folders or patterns")
    add("--crop", type=command.size, metavar="WxH", help="centre crop, as in the study (none)")
    add("--dataset", default="", help="data set of the table, if it has several")
    add(
        "--published",
        type=os.path.expanduser,
        default="",
        metavar="FILE",
        help="a curve to compare with: rate, PSNR",
    )
    command.add_output(parser, "./report")
    return parser.parse_args(argv)


def groups_of(path, images, dataset):
    """The files in a study's table: a dict from (method, model, λ) to [(image, bpp, psnr)].

    Args:
      path: of the table.
      images: dict of `inputs.Image` by name.
      dataset: name of the data set; '' if there is only one.

    Raises:
      InputError: there are several data sets, a row is of an image that is not in `images` or of
        other pixels than that has, or no row has the size of a file.
    """
    groups = collections.OrderedDict()
    rows = tables.read_csv(path, "")
    names = sorted({row["dataset"] for row in rows})
    if len(names) > 1 and not dataset or dataset and dataset not in names:
        line = "{}: has the data sets {}; --dataset chooses one"
        raise InputError(line.format(path, ", ".join(name or "(unnamed)" for name in names)))
    for row in rows:
        if dataset not in ("", row["dataset"]):
            continue
        bpp = row.get("net_bpp", "") or row.get("actual_bpp", "")
        if bpp == "" or row.get("quality", "") != "":
            continue
        if not bpp > 0:
            line = "{}: {} by {}: a file cannot have {:g} bits per pixel"
            raise InputError(line.format(path, row["image"], row["method"], bpp))
        if row["image"] not in images:
            line = "{}: {} is not among the images {}"
            raise InputError(line.format(path, row["image"], ", ".join(images)))
        if row.get("image_sha256", "") not in ("", images[row["image"]].sha256):
            line = "{}: {} has other pixels than in the study; --crop has to be what it was there"
            raise InputError(line.format(path, row["image"]))
        key = row["method"], row.get("model", ""), row["lambda"]
        groups.setdefault(key, []).append((row["image"], bpp, row["psnr"]))
    if not groups:
        line = "{}: no row has the size of a file (--estimate_only writes none)"
        raise InputError(line.format(path))
    return groups


def means(found, pixels, step):
    """The mean rate and PSNR of files, and how far the latter lies above that of each codec.

    Some codecs cannot make a file that small: the difference is the mean of those images where they
    can, of which there are `<codec>_images`. `step()` is called for each file and codec.
    """
    differences = {codec: [] for codec in codecs.PILLOW}
    for image, bpp, psnr in found:
        height, width, _ = pixels[image].shape
        for codec, values in differences.items():
            size = bpp * height * width / 8
            values.append(psnr - codecs.psnr_at_size(codec, pixels[image], size))
            step()
    row = {
        "images": len({image for image, _, _ in found}),
        "files": len(found),
        "bpp": np.mean([bpp for _, bpp, _ in found]),
        "psnr": np.mean([psnr for _, _, psnr in found]),
    }
    for codec, values in differences.items():
        there = [value for value in values if not np.isnan(value)]
        row[codec] = np.mean(there) if there else ""
        row[codec + "_images"] = len(there)
    return row


def _shown(codec):
    """A function of a row that gives the text of a codec's cell."""

    def text(row):
        number = row[codec + "_images"]
        few = " ({})".format(number) if number < row["files"] else ""
        return "{:+.2f} dB{}".format(row[codec], few)

    return text


def published(path):
    """A published curve as logarithms of rates and values of PSNR; None for ''.

    Raises:
      InputError: the file is not one of published points.
    """
    if not path:
        return None
    curve = curves.read_published(path)
    rates, values = zip(*((point["rate"], point["psnr"]) for point in curve.points))
    return np.log(rates), values


def table(rows):
    """The rows as a `documents.Table`."""
    columns = [("method", "method", "{}"), ("model", "model", "{}")]
    columns += [("λ", "lambda", "{:g}"), ("images", "images", "{}")]
    columns += [("bpp", "bpp", "{:.4f}"), ("PSNR", "psnr", "{:.2f} dB")]
    columns += [("to " + label, key, _shown(key)) for key, label in codecs.LABELS.items()]
    columns += [("to published", "published", "{:+.2f} dB")]
    notes = ["In brackets: on how many files, where the codec cannot make all files that small."]
    return documents.Table("same-size", "PSNR above others at the same size", columns, rows, notes)


if __name__ == "__main__":
    command.run(main)
