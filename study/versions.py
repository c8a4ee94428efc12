"""The version of the code that computes a result: a digest of all of a script that Python sees."""

import ast
import functools
import hashlib
import os

from inference.scripts import ROOT
from runtime import files


def version(script):
    """Digest of `<script>.py` and of every file of this project that it imports, however deep.

    Comments, docstrings and layout do not count, nor do `study` and `tests`, which no script
    imports, and `training`, which compresses nothing. It needs no git, so that a copied folder has
    the version of its original.
    """
    digest = hashlib.sha256()
    for path in sources(script):
        name = os.path.relpath(path, ROOT).replace(os.sep, "/")
        digest.update("{} {}\n".format(name, _syntax(files.read_bytes(path))).encode())
    return digest.hexdigest()[:16]


def sources(script):
    """Paths, sorted, of `<script>.py` and of what it imports of the project, except `training`."""
    found, pending = set(), [os.path.join(ROOT, script + ".py")]
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            content = files.read_bytes(path)
            pending += [p for name in _imported(content, path) for p in _files_of(name)]
    return sorted(found)


def _files_of(module):
    """The project's files that Python runs when it imports a dotted name.

    The name may end in what a module defines; names from elsewhere have no files here.
    """
    place, found = ROOT, []
    if module.split(".")[0] == "training":
        return found
    for part in module.split("."):
        place = os.path.join(place, part)
        candidates = (place + ".py", os.path.join(place, "__init__.py"))
        found += [path for path in candidates if os.path.isfile(path)]
        if not os.path.isdir(place):
            break
    return found


@functools.lru_cache(maxsize=None)
def _imported(content, path):
    """Dotted names that a source imports anywhere, within functions too."""
    names = []
    for node in ast.walk(_parse(content)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = os.path.relpath(path, ROOT).split(os.sep)[: -node.level]
                module = ".".join([*package, module]).strip(".")
            names += ["{}.{}".format(module, alias.name) for alias in node.names]
    return names


@functools.lru_cache(maxsize=None)
def _syntax(content):
    """Digest of a source's syntax tree without docstrings."""
    text = ast.dump(_WithoutDocstrings().visit(_parse(content)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@functools.lru_cache(maxsize=None)
def _parse(content):
    return ast.parse(content)


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node):
        return None if isinstance(node.value, ast.Str) else node
