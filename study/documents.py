"""Tables as plain text, Markdown and LaTeX: to read, and to paste into a README or a paper."""

import collections
import re

import numpy as np
import tabulate

Table = collections.namedtuple("Table", "name title columns rows notes")
Table.__doc__ = """A table of a report.

name: one word; title: in words, for its caption; columns: list of (header, key, format), of which
those with the format "{}" are text; rows: list of dicts; notes: list of str, to stand below.

A column whose key no row has is left out; a format may be a function of a row, which returns str.
"""

tabulate.MIN_PADDING = 0  # of headers, besides the two spaces between columns

MISSING = "–"
LATEX = {  # characters that pdfLaTeX does not know
    **{"λ": r"\ensuremath{\lambda}", "·": r"\ensuremath{\cdot}", "±": r"\ensuremath{\pm}"},
    **{"−": r"\ensuremath{-}", "×": r"\ensuremath{\times}", "–": "--", "…": r"\dots{}"},
    "ø": r"{\o}",
}
LATEX_TABLE = r"""\begin{{table}}
\centering
\caption{{{}}}
\label{{tab:{}}}
\smallskip
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
{}}}{}
\end{{table}}"""


def is_known(value):
    """Whether a value is present and can be written as JSON."""
    return value not in ("", None) and (not isinstance(value, float) or np.isfinite(value))


def headers(table):
    return [name for name, _, _ in _columns(table)]


def cells(table):
    """The text of all cells, a list of lists of str."""
    return [[_cell(row, key, form) for _, key, form in _columns(table)] for row in table.rows]


def lefts(table):
    """Whether each column is text, which stands at the left."""
    return [form == "{}" for _, _, form in _columns(table)]


def _columns(table):
    return [c for c in table.columns if any(is_known(row.get(c[1], "")) for row in table.rows)]


def _cell(row, key, form):
    value = row.get(key, "")
    if not is_known(value):
        return MISSING
    text = form(row) if callable(form) else form.format(value)
    return re.sub(r"^-(?=0\.0*(\D|$))", "+" if "+" in str(form) else "", text)  # no -0.00


def _tabulated(table, form, escape=lambda text: text):
    lines = [[escape(cell) for cell in line] for line in cells(table)]
    align = ["left" if left else "right" for left in lefts(table)]
    names = [escape(name) for name in headers(table)]
    options = {"tablefmt": form, "disable_numparse": True, "colalign": align}
    return tabulate.tabulate(lines, names, **options)


def as_text(table):
    """The table with aligned columns, and its notes."""
    lines = _tabulated(table, "plain").splitlines()
    return "\n".join([*(line.rstrip() for line in lines), *table.notes])


def as_markdown(table):
    """The table in GitHub's Markdown, without title and notes."""
    return _tabulated(table, "pipe", lambda text: text.replace("|", "\\|"))


def as_latex(table):
    """A `table` environment, no wider than the line, which needs booktabs and graphicx."""
    body = re.sub(r"(?<=[ (])-(?=[0-9])", "−", _tabulated(table, "latex_booktabs"))
    notes = "".join("\n\n\\smallskip\\small " + _escaped(note) for note in table.notes)
    # Two hyphens of a flag would become a dash.
    body = body.replace("--", "-{}-")
    return _in_latex(LATEX_TABLE.format(_escaped(table.title), table.name, body, notes))


def _in_latex(text):
    return "".join(LATEX.get(character, character) for character in text)


def _escaped(text):
    """Text that LaTeX shows as it is, escaped as tabulate does in cells."""
    return "".join(tabulate.LATEX_ESCAPE_RULES.get(character, character) for character in text)


def markdown(title, tables, notes):
    """A document in Markdown."""
    parts = ["# " + title]
    for table in tables:
        parts += ["## " + table.title, as_markdown(table), *("* " + note for note in table.notes)]
    return "\n\n".join([*parts, *notes])


def latex(tables, notes=()):
    """LaTeX to include in a paper; notes follow as paragraphs."""
    head = "% needs \\usepackage{booktabs,graphicx}"
    notes = (_in_latex(_escaped(note)) for note in notes)
    return "\n\n".join([head, *map(as_latex, tables), *notes])
