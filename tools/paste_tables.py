"""Pastes tables into README.md and docs/: `python -m tools.paste_tables`.

A table there stands between two comments, which name the file that it is copied from and, if this
has several tables, the beginning of the heading above it. They may name the columns and the rows to
take, the latter by their first cells, of which the first row that has one is meant:

    <!-- table: results/nine/report.md, Gains; columns: method, gain; rows: sga, bb_sga -->
    <!-- end of table -->

The files are written by the programs of `study/`.
"""

import glob
import os
import re

from inference.scripts import ROOT
from runtime import files, signals

BLOCK = re.compile(
    r"(<!-- table: (?P<path>[^,;\n]+?)(?:, (?P<heading>[^;\n]+?))?"
    r"(?:; columns: (?P<columns>[^;\n]+?))?(?:; rows: (?P<rows>[^;\n]+?))? -->\n)"
    r".*?(<!-- end of table -->)",
    re.S,
)


def pasted(text):
    """A text with the tables that its comments name.

    Raises:
      LookupError: a file has no such heading, no table below it, or no such column or row.
    """

    def block(match):
        lines = table(match["path"], match["heading"] or "")
        cells = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines]
        rows = _numbers([row[0] for row in cells[2:]], match["rows"], match["path"])
        columns = _numbers(cells[0], match["columns"], match["path"])
        lines = [lines[0], lines[1], *(lines[2 + row] for row in rows)]
        lines = ["|".join(["", *(line.split("|")[1 + n] for n in columns), "\n"]) for line in lines]
        return match[1] + "".join(lines) + match[match.lastindex]

    return BLOCK.sub(block, text)


def _numbers(names, wanted, path):
    """The places of the wanted names, separated by commas; with None, all places."""
    if wanted is None:
        return range(len(names))
    missing = set(wanted.split(", ")) - set(names)
    if missing:
        raise LookupError("{}: nothing is called {}".format(path, ", ".join(sorted(missing))))
    return [names.index(name) for name in wanted.split(", ")]


def table(path, heading):
    """The lines of the first table of a Markdown file below a heading that begins so."""
    lines = files.read_bytes(os.path.join(ROOT, path)).decode().splitlines(keepends=True)
    if heading:
        starts = [n for n, line in enumerate(lines) if line.startswith("## " + heading)]
        if not starts:
            raise LookupError("{}: no heading that begins with {}".format(path, heading))
        lines = lines[starts[0] :]
    found = re.search(r"^(\|.*\n)+", "".join(lines), re.M)
    if not found:
        raise LookupError("{}: no table".format(path))
    return found[0].splitlines()


def documents():
    """Paths of the files with tables."""
    return [os.path.join(ROOT, "README.md"), *sorted(glob.glob(os.path.join(ROOT, "docs", "*.md")))]


def main():
    for path in documents():
        text = files.read_bytes(path).decode()
        if pasted(text) != text:
            files.write_bytes(path, pasted(text).encode())
            print("wrote " + os.path.relpath(path, ROOT))


if __name__ == "__main__":
    with signals.command("paste_tables"):
        main()
