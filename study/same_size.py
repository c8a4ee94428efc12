"""PSNR above that of classical codecs at the same file size, image by image.

    python -m study.same_size results/mine/images.csv 'kodak/*.png' --output same_size.csv

reads the table of a study and its images, codes each image with JPEG, WebP and JPEG 2000 (Pillow;
`imaging.codecs`) to the size of each file that the table has (column net_bpp, or actual_bpp), and
prints, for each method and model, the mean rate and PSNR of its files and by how many dB they lie
above each codec. With --published it also prints the PSNR less that of a published curve at the
mean rate.
"""

import collections
import itertools
import os

import numpy as np

from imaging import codecs
from runtime import console, files
from runtime.errors import InputError
from study import command, curves, tables, tasks

COLUMNS = ("method", "model", "images", "bpp", "psnr", *codecs.CODECS)


def main(argv=None):
    args = parse(argv)
    if args.output:
        files.check_writable(args.output)
    pixels = {}
    for image in tasks.find_images(args.images, args.crop):
        pixels[image.name] = tasks.read(image)
    groups, curve = groups_of(args.table, pixels), published(args.published)
    number = sum(map(len, groups.values())) * len(codecs.CODECS)
    rows, done = [], itertools.count(1)
    with console.Progress(number) as progress:
        for (method, model), found in groups.items():
            row = means(found, pixels, lambda: progress.update(next(done)))
            row.update(method=method, model=model)
            if curve is not None:
                row["published"] = row["psnr"] - np.interp(np.log(row["bpp"]), *curve)
            rows.append(row)
    print(as_text(rows))
    if args.output:
        columns = COLUMNS + (("published",) if curve is not None else ())
        files.write_bytes(args.output, tables.to_csv(rows, columns))
        print("wrote {}".format(args.output))


def parse(argv):
    parser = command.parser("study.same_size", __doc__, positional="table images [images ...]")
    add = parser.add_argument
    add("table", type=os.path.expanduser, help="images.csv of a study, whose files have sizes")
    add("images", nargs="+", help="the study's images: files, folders or patterns")
    add("--crop", type=command.size, metavar="WxH", help="centre crop, as in the study (none)")
    add("--published", default="", metavar="FILE", help="a curve to compare with: rate, PSNR")
    command.add_output(parser, "", "FILE", "table to write, .csv; '' for none ")
    return parser.parse_args(argv)


def groups_of(path, pixels):
    """The files in a study's table: a dict from (method, model) to [(image, bpp, psnr)].

    Raises:
      InputError: a row is of an image that is not in `pixels`, or no row has the size of a file.
    """
    groups = collections.OrderedDict()
    for row in tables.read_csv(path, ""):
        bpp = row.get("net_bpp", "") or row.get("actual_bpp", "")
        if bpp == "":
            continue
        if row["image"] not in pixels:
            line = "{}: {} is not among the images {}"
            raise InputError(line.format(path, row["image"], ", ".join(pixels)))
        key = row["method"], row.get("model", "")
        groups.setdefault(key, []).append((row["image"], bpp, row["psnr"]))
    if not groups:
        line = "{}: no row has the size of a file (of mbt2018, --container writes one)"
        raise InputError(line.format(path))
    return groups


def means(found, pixels, step):
    """The mean rate and PSNR of files, and how far the latter lies above that of each codec.

    `step()` is called for each file and codec.
    """
    differences = {codec: [] for codec in codecs.CODECS}
    for image, bpp, psnr in found:
        height, width, _ = pixels[image].shape
        for codec, values in differences.items():
            size = bpp * height * width / 8
            values.append(psnr - codecs.psnr_at_size(codec, pixels[image], size))
            step()
    return {
        "images": len(found),
        "bpp": np.mean([bpp for _, bpp, _ in found]),
        "psnr": np.mean([psnr for _, _, psnr in found]),
        **{codec: np.mean(values) for codec, values in differences.items()},
    }


def published(path):
    """A published curve as logarithms of rates and values of PSNR; None for ''.

    Raises:
      InputError: the file is not one of published points.
    """
    if not path:
        return None
    _, (curve,) = curves.read([path], "")
    rates, values = zip(*((point["rate"], point["psnr"]) for point in curve.points))
    return np.log(rates), values


def as_text(rows):
    """The rows as an aligned table."""
    codes = ["to " + codec.label for codec in codecs.CODECS.values()]
    header = ["method", "model", "images", "bpp", "PSNR", *codes]
    header += ["to published"] if "published" in rows[0] else []
    lines = [header]
    for row in rows:
        lines.append([row["method"], row["model"], str(row["images"])])
        lines[-1] += ["{:.4f}".format(row["bpp"]), "{:.2f} dB".format(row["psnr"])]
        keys = [*codecs.CODECS, *(["published"] if "published" in row else [])]
        lines[-1] += ["{:+.2f} dB".format(row[key]) for key in keys]
    widths = [max(map(len, column)) for column in zip(*lines)]
    justified = (
        (cell.ljust(width) if index < 2 else cell.rjust(width))
        for line in lines
        for index, (cell, width) in enumerate(zip(line, widths))
    )
    return "\n".join("  ".join(cells) for cells in zip(*[justified] * len(header)))


if __name__ == "__main__":
    command.run(main)
