"""Tables of study results: from result files to one row per image, and to means."""

import collections
import csv
import io
import os

import numpy as np

from inference import evaluation
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
)
METRICS = (*evaluation.METRICS, "est_rd_loss")
SECONDS = ("seconds", "encode_seconds", "decode_seconds")
COLUMNS = IDENTITY + SETTINGS + METRICS + SECONDS
NEEDED = ("image", "method", "lambda", "est_bpp", "psnr")  # columns that any table must have


def rows_of_result(path, dataset):
    """Rows of a result file of a script or a study, one for each image.

    Args:
      path: an `.npz`.
      dataset: name of the data set, for the rows.

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
            "method": str(values.get("method", values["script"])),
            "model": str(values["runname"]),
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


def image_name(values):
    """The name, in tables and figures, of the image or images of a result file."""
    return str(values.get("image", os.path.splitext(str(values["input"]))[0]))


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
