"""Set-up of a fresh machine: which Python `tools/venv.sh` picks, and when it installs."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = os.path.join(ROOT, "tools", "venv.sh")


@pytest.fixture
def machine(tmp_path):
    """Runs the script with a `python3.7` on the PATH that is a broken shim."""
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("python3.7", "python3", "python"):
        (shims / name).write_text("#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
        (shims / name).chmod(0o755)
    (tmp_path / "requirements.txt").write_text("# nothing\n")

    def run(folder="venv"):
        return subprocess.run(
            [SCRIPT, folder, "requirements.txt"],
            cwd=str(tmp_path),
            env={"HOME": str(tmp_path), "PATH": "{}:/usr/bin:/bin".format(shims)},
            capture_output=True,
            text=True,
        )

    return tmp_path, run


def test_without_a_python_one_line_says_what_to_install(machine):
    folder, run = machine
    process = run()
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert "no working Python 3.7" in line and "pyenv install 3.7" in line
    assert not (folder / "venv").exists()


def test_takes_one_that_works_and_installs_once(machine):
    folder, run = machine
    versions = folder / ".pyenv" / "versions" / "3.7.99" / "bin"
    versions.mkdir(parents=True)
    real = os.path.join(os.path.realpath(sys.base_prefix), "bin", "python3.7")
    (versions / "python").write_text('#!/bin/sh\nexec "{}" "$@"\n'.format(real))
    (versions / "python").chmod(0o755)
    first, again = run(), run()
    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert "installing" in first.stdout and again.stdout == ""
    (folder / "requirements.txt").write_text("# changed\n")
    assert "installing" in run().stdout
