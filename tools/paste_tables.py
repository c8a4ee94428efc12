"""Pastes tables into README.md and docs/: `python -m tools.paste_tables`.

A table there stands between two comments, which name the file that it is copied from and, if this
has several tables, the beginning of the heading above it:

    <!-- table: results/demo/report.md, Gains -->
    <!-- end of table -->

The files are written by `study.report` and `study.budgets`.
"""

import glob
import os
import re
import sys

from inference.scripts import ROOT
from runtime import files

BLOCK = re.compile(
    r"(<!-- table: ([^,\n]+?)(?:, ([^\n]+?))? -->\n).*?(<!-- end of table -->)", re.S
)


def pasted(text):
    """A text with the tables that its comments name.

    Raises:
      LookupError: a file has no such heading, or no table below it.
    """
    return BLOCK.sub(lambda match: match[1] + table(match[2], match[3] or "") + match[4], text)


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
    return found[0]


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
    sys.exit(main())
