"""Tables of study results: from result files to one row per image, and to means."""

import collections
import contextlib
import csv
import io
import os
import re

import numpy as np

from inference.evaluation import METRICS
from inference.methods import find_method
from inference.scripts import METHODS
from runtime import files
from runtime.errors import InputError

IDENTITY = ("dataset", "image", "method", "model", "lambda")
SETTINGS = (
    "script",
    "table_row",
    "height",
    "width",
    "seed",
    "iterations",
    "checkpoint_step",
    "checkpoint_sha256",
    "image_sha256",
    "task",
    "version",
    "device",
    "cpu",
)
SECONDS = ("seconds", "encode_seconds", "decode_seconds")
COLUMNS = IDENTITY + SETTINGS + METRICS + SECONDS
NEEDED = ("image", "method", "lambda", "est_bpp", "psnr")  # columns that any table must have


def rows_of_result(path, dataset, method=None):
    """Rows of a result file of a script or a study, one for each image.

    Args:
      path: an `.npz`.
      dataset: name of the data set, for the rows.
      method: what to call the method; None: as `labels` calls it where there is no other result.

    Returns:
      list of dicts with the keys `COLUMNS`; '' for values missing from the result.

    Raises:
      InputError: the file is not a readable result.
    """
    values = load(path)
    try:
        number = len(values["est_bpp"])
        constant = {
            "dataset": dataset,
            "method": method or as_text(str(values.get("method", values["script"]))),
            "model": as_text(str(values["runname"])),
            "lambda": float(values["lmbda"]),
            "iterations": int(values["sga_its"]) if "sga_its" in values else "",
        }
        name = image_name(values)
        rows = []
        for index in range(number):
            row = dict.fromkeys(COLUMNS, "")
            row.update({key: values[key].item() for key in SETTINGS if key in values})
            row.update(constant, image=name if number == 1 else "{}-{}".format(name, index))
            for key in METRICS + SECONDS:
                if key in values:
                    row[key] = float(values[key][index])
            rows.append(row)
        return rows
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError("{}: not a result of these scripts ({!r})".format(path, error))


def load(path):
    """The arrays of a result file by name; `InputError` if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as result:
            return {key: result[key] for key in result.files}
    except FileNotFoundError:
        raise InputError("{}: no such file".format(path))
    except Exception as error:  # a dozen types, from NumPy, zipfile and zlib
        raise InputError("{}: not a readable .npz file ({})".format(path, error))


def labels(results):
    """What to call the methods of several result files, so that a label means one thing.

    It is the name of the script, or the method of a study; where several results have the same, the
    flags in which they differ follow. The seed does where results of one image differ in it alone.

    Args:
      results: list of dicts, as `load` returns them.

    Returns:
      list of str.
    """
    groups = collections.OrderedDict()
    for index, values in enumerate(results):
        name = as_text(str(values.get("method", values.get("script", ""))))
        groups.setdefault(name, []).append(index)
    found = [""] * len(results)
    for name, indices in groups.items():
        settings = [_settings(results[index]) for index in indices]
        several = {
            key: len({setting[key] for setting in settings if key in setting}) > 1
            for setting in settings
            for key in setting
        }
        for seeded in (False, True):
            keys = [key for key in several if several[key] and (seeded or key != "seed")]
            for index, setting in zip(indices, settings):
                found[index] = " ".join([name, *_flags(setting, keys)])
            same = [
                (found[i], *(str(results[i].get(key)) for key in ("input", "runname", "lmbda")))
                for i in indices
            ]
            if len(set(same)) == len(same):
                break
    return found


def _settings(values):
    """The settings of a result file's method, by the names of their flags."""
    names = {"seed", "sga_its"}
    with contextlib.suppress(InputError):  # of a script that is not here
        method = find_method(str(values.get("script", "")))
        names |= {*method.flags, *method.objective_flags, *method.coding_flags}
        names -= {"side_info"}  # a file of each image
    return {key: value.item() for key, value in values.items() if key in names}


def _flags(settings, keys):
    """Words of a command line that gives some settings."""
    for key in keys:
        value = settings.get(key, False)
        if value is True:
            yield "--" + key
        elif value is not False:
            yield "--{} {}".format(key, value)


def image_name(values):
    """What tables and figures call the image, or images, of a result file."""
    return as_text(str(values.get("image", os.path.splitext(str(values["input"]))[0])))


def as_text(name):
    """A file's name as text that UTF-8 can hold: bytes that are not UTF-8 become %E4 and the like.

    Tables, figures and Dask take such text only.
    """
    return re.sub("[\udc80-\udcff]", lambda odd: "%{:02X}".format(ord(odd.group()) - 0xDC00), name)


def read_csv(path, dataset):
    """Reads the rows of a per-image table, as `to_csv` writes it.

    Args:
      path: of the file. It may have any columns besides those of `NEEDED`.
      dataset: name of the data set, if the table has no such column.

    Raises:
      InputError: the file is unreadable, a column of `NEEDED` is missing, or a value that should be
        a number is not.
    """
    columns, lines = _csv_lines(path)
    for column in NEEDED:
        if column not in columns:
            raise InputError(
                "{}: the column {} is missing; there have to be {}".format(
                    path, column, ", ".join(NEEDED)
                )
            )
    rows = []
    for number, line in enumerate(lines, 2):
        row = {key: value or "" for key, value in line.items() if key is not None}
        row["dataset"] = row.get("dataset") or dataset
        for column in ("image", "method"):
            if not row[column].strip():
                raise InputError("{}: line {}: no {}".format(path, number, column))
        for column in ("lambda", *METRICS, *SECONDS):
            text = row.get(column, "")
            try:
                row[column] = float(text) if text or column in NEEDED else ""
            except ValueError:
                raise InputError(
                    "{}: line {}: {} is {!r}, not a number".format(path, number, column, text)
                )
        rows.append(row)
    return rows


def _csv_lines(path):
    """The column names, and the lines as dicts."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        lines = list(reader)
    except csv.Error as error:
        raise InputError("{}: not a CSV file ({})".format(path, error))
    return reader.fieldnames or (), lines


def read_text(path):
    """A file's text; `InputError` if it is not a text file."""
    try:
        return files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("{}: not a text file".format(path))


def in_order(rows):
    """Rows sorted by data set, image, and method, in the order of `METHODS` with others last."""

    def key(row):
        method = place(row["method"])
        return (row["dataset"], row["image"], *method, row["lambda"], row.get("model", ""))

    return sorted(rows, key=key)


def place(method):
    """Sort key of a method: the order of `METHODS`, others last."""
    script = method.split()[0]
    return METHODS.index(script) if script in METHODS else len(METHODS), method


def to_csv(rows, columns):
    """Dicts as a CSV table, in bytes: numbers with nine digits, enough for float32, λ in full."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(column, row[column]) for column in columns])
    return text.getvalue().encode()


def _cell(column, value):
    if not isinstance(value, float):
        return value
    return repr(value) if column == "lambda" else "{:.9g}".format(value)


def gains(rows, anchor, *same):
    """Percentages by which the loss λ·MSE + bpp lies below the anchor's.

    Args:
      rows: list of dicts, of images or means.
      anchor: a method.
      *same: keys in which a row agrees with the anchor's row that it is compared with.

    Yields:
      (row, percentage), for each row of another method that has a loss and such a row.
    """
    rows = [row for row in rows if row.get("est_rd_loss", "") != ""]

    def key(row):
        return tuple(row[name] for name in same)

    losses = {key(row): row["est_rd_loss"] for row in rows if row["method"] == anchor}
    for row in rows:
        if row["method"] != anchor and key(row) in losses:
            yield row, 100 * (1 - row["est_rd_loss"] / losses[key(row)])


MEANS = ("dataset", "method", "model", "checkpoint_sha256", "lambda", "images", *METRICS, *SECONDS)


def means(rows):
    """Means over the images for each data set, method, checkpoint and λ, in order of appearance.

    Returns:
      list of dicts with the keys `MEANS`; '' for a value that some image lacks.
    """
    groups = collections.OrderedDict()
    for row in rows:
        model = row.get("model", ""), row.get("checkpoint_sha256", "")
        key = (row["dataset"], row["method"], *model, row["lambda"])
        groups.setdefault(key, []).append(row)
    table = []
    for key, group in groups.items():
        mean = dict(zip(MEANS, key), images=len(group))
        for column in METRICS + SECONDS:
            values = [row.get(column, "") for row in group]
            mean[column] = "" if "" in values else float(np.mean(values))
        table.append(mean)
    return table
