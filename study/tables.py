"""Rows of study results: from result files and CSV tables to one row per image, and to means."""

import collections
import contextlib
import csv
import io
import os
import re

import numpy as np
import pandas as pd

from inference.evaluation import METRICS
from inference.methods import find_method
from inference.scripts import METHODS
from runtime import files, flags
from runtime.errors import InputError
from study.codecs import CODECS

IDENTITY = ("dataset", "image", "method", "model", "lambda", "quality")
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
    "threads",
)
SECONDS = ("seconds", "encode_seconds", "decode_seconds")
COLUMNS = IDENTITY + SETTINGS + METRICS + SECONDS
NEEDED = ("image", "method", "est_bpp", "psnr")  # columns that any table must have
SETTING = ("lambda", "quality")  # every row has one of these

# --- Result files ----------------------------------------------------------------------------


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
            "model": as_text(str(values.get("runname", ""))),
            "iterations": int(values["sga_its"]) if "sga_its" in values else "",
        }
        learned = "quality" not in values
        constant["lambda" if learned else "quality"] = float(
            values["lmbda" if learned else "quality"]
        )
        name = image_name(values)
        rows = []
        for index in range(number):
            row = dict.fromkeys(COLUMNS, "")
            row.update({key: values[key].item() for key in SETTINGS if key in values})
            row.update(constant, image=name if number == 1 else "{}-{}".format(name, index))
            for key in METRICS + SECONDS:
                if key in values:
                    row[key] = float(values[key][index])
            if "lmbda_found" in values or "weight_map_sha256" in values:
                row["est_rd_loss"] = ""  # of another λ, or of weighted errors: compares with none
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
                found[index] = " ".join(
                    [name, *flags.words({key: setting.get(key, False) for key in keys})]
                )
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
        names |= {*method.image_flags, *method.flags}
        names |= {*method.objective_flags, *method.coding_flags}
        names -= {"side_info"}  # a file of each image
    return {key: value.item() for key, value in values.items() if key in names}


def image_name(values):
    """What tables and figures call the image, or images, of a result file."""
    return as_text(str(values.get("image", os.path.splitext(str(values["input"]))[0])))


def as_text(name):
    """A file's name as text that UTF-8 can hold: bytes that are not UTF-8 become %E4 and the like.

    Tables, figures and Dask take such text only.
    """
    return re.sub("[\udc80-\udcff]", lambda odd: "%{:02X}".format(ord(odd.group()) - 0xDC00), name)


# --- CSV tables ------------------------------------------------------------------------------


def read_csv(path, dataset):
    """Reads the rows of a per-image table, as `to_csv` writes it.

    Args:
      path: of the file. Besides `NEEDED` and one of `SETTING` it may have any columns.
      dataset: name of the data set, if the table has no such column.

    Returns:
      list of dicts: float for `SETTING`, `METRICS` and `SECONDS`, or '' if missing; else str.

    Raises:
      InputError: the file is unreadable, a column is missing, or a value that should be a number
        is not.
    """
    columns, lines = _csv_lines(path)
    for column in (*NEEDED, *([] if "quality" in columns else ["lambda"])):
        if column not in columns:
            names = "{}, and lambda or quality".format(", ".join(NEEDED))
            line = "{}: the column {} is missing; there have to be {}"
            raise InputError(line.format(path, column, names))
    rows = []
    for number, line in enumerate(lines, 2):
        row = {key: value or "" for key, value in line.items() if key is not None}
        row["dataset"] = row.get("dataset") or dataset
        for column in ("image", "method"):
            if not row[column].strip():
                raise InputError("{}: line {}: no {}".format(path, number, column))
        for column in ("seed", *SETTING, *METRICS, *SECONDS):
            text = row.get(column, "")
            needed = column in NEEDED or column == "lambda" and not row.get("quality")
            try:
                number_or_none = float(text) if text or needed else ""
                if column in SETTING and not np.isfinite(number_or_none or 0.0):
                    raise ValueError
                row[column] = text if column == "seed" else number_or_none
            except ValueError:
                line = "{}: line {}: {} is {!r}, not a number"
                raise InputError(line.format(path, number, column, text))
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


def with_digests(rows):
    """Rows with the digest of a checkpoint that some lack, where the others of a model have one."""
    known = {}
    for row in rows:
        digests = known.setdefault((row["dataset"], row.get("model")), set())
        digests.add(row.get("checkpoint_sha256"))
    made = []
    for row in rows:
        digests = known[row["dataset"], row.get("model")] - {"", None}
        lacks = row.get("model") and not row.get("checkpoint_sha256") and len(digests) == 1
        made.append({**row, "checkpoint_sha256": min(digests)} if lacks else row)
    return made


# --- Order and means -------------------------------------------------------------------------


def in_order(rows):
    """Rows sorted by data set, image, method (`place`), and then by λ, quality, model and seed."""

    def key(row):
        numbers = [float(row.get(name, "") or 0) for name in SETTING]
        names = (row.get("model", ""), row.get("seed", ""))
        seed = float(names[1] or 0)
        return (row["dataset"], row["image"], *place(row["method"]), *numbers, names[0], seed)

    return sorted(rows, key=key)


def place(method):
    """Sort key of a method: the nine in the order of `METHODS`, then others, then `CODECS`."""
    script = method.split()[0]
    others = len(METHODS)
    if script in CODECS:
        return others + 1 + list(CODECS).index(script), method
    return METHODS.index(script) if script in METHODS else others, method


POINT = ("dataset", "method", "model", "checkpoint_sha256", *SETTING)  # of a rate-distortion plane
VALUES = [*METRICS, *SECONDS]
MEANS = (*POINT, "images", "seeds", *VALUES)


def where(dataset, method, model, sha256, lmbda, quality):
    """A point in words; `model` and `sha256` say nothing that users ask for."""
    setting = "quality {:g}".format(quality) if lmbda == "" else "λ = {:g}".format(lmbda)
    return ", ".join(filter(None, (dataset, method, setting)))


def frame(rows):
    """Rows as a `DataFrame` with `COLUMNS`; missing: NaN in `VALUES`, '' elsewhere."""
    table = pd.DataFrame(rows, columns=COLUMNS).fillna("")
    table[VALUES] = table[VALUES].apply(pd.to_numeric, errors="coerce").astype(float)
    return table


def per_image(table):
    """Means over the seeds, of each image at each `POINT`, as a `DataFrame`.

    A mean is NaN if some seed lacks the value; `seeds` is how many there are.
    """
    groups = table.groupby([*POINT, "image"], sort=False)
    found = _mean(groups)
    found.insert(0, "seeds", groups.size())
    return found.reset_index()


def means(rows):
    """Means over the images at each `POINT`, each image's over its seeds, in order of appearance.

    Returns:
      list of dicts with the keys `MEANS`; '' for a value that some image lacks.
    """
    return over_images(per_image(frame(rows)))


def over_images(images):
    """`means` of a table of `per_image`."""
    groups = images.groupby([*POINT], sort=False)
    found = _mean(groups)
    found.insert(0, "images", groups.size())
    found.insert(1, "seeds", groups["seeds"].max())
    return found.reset_index().astype(object).fillna("").to_dict("records")


def _mean(groups):
    counts = groups[VALUES].count()
    return groups[VALUES].mean().where(counts.eq(groups.size(), axis=0))
