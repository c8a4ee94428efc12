"""Decoding of latents without TensorFlow, and without constriction."""

import os
import shutil
import subprocess
import sys

import ans
import numpy as np
import pytest
from conftest import DEMO, DEMO_DIR, ROOT
from constriction import stream
from test_files import STORED

from coding import decoding, integer_model, stack, tables
from model import checkpoints
from runtime.errors import InputError
from tools import export_integers

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from coding import decoding
decoding.main()
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function from a script to the exported integers of its demo model."""
    folder = tmp_path_factory.mktemp("exported")

    def path(script):
        path = str(folder / (DEMO[script] + ".npz"))
        if not os.path.exists(path):
            argv, sys.argv = sys.argv, ["export_integers", DEMO_DIR, DEMO[script], path]
            try:
                export_integers.main()
            finally:
                sys.argv = argv
        return path

    return path


def test_what_is_written_is_read(exported):
    for script in ("map", "bb_no_sga"):
        run = checkpoints.find_run(DEMO_DIR, DEMO[script])
        decoder = integer_model.load(run, script == "bb_no_sga")
        np.testing.assert_equal(as_lists(decoding.read(exported(script))), as_lists(decoder))


def as_lists(decoder):
    networks = decoder.hyper_synthesis, decoder.hyper_analysis
    layers = [[tuple(layer) for layer in network.layers] for network in networks if network]
    return layers, decoder.prior.weights, decoder.medians, decoder.digest


def decode(command, script, exported):
    command = [sys.executable, *command, exported(script), os.path.join(STORED, script + ".tfci")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    with open(os.path.join(STORED, script + ".sha256")) as file:
        assert process.stdout.split() == file.read().split()


@pytest.mark.parametrize("script", ["map", "bb_no_sga"])
def test_stored_files_without_tensorflow(script, exported):
    decode(["-c", WITHOUT_TENSORFLOW], script, exported)


@pytest.mark.parametrize("script", ["map", "bb_no_sga"])
def test_stored_files_without_constriction(script, exported):
    decode([os.path.join("tests", "ans.py")], script, exported)


def test_the_model_of_another_file(exported, capsys, monkeypatch):
    path = os.path.join(STORED, "map.tfci")
    for model, text in ((exported("bb_sga"), "made with another model"), (path, "not a file of")):
        monkeypatch.setattr(sys, "argv", ["decoding", model, path])
        with pytest.raises(SystemExit) as exit_info:
            decoding.main()
        (line,) = capsys.readouterr().err.splitlines()
        assert exit_info.value.code == 2 and "map.tfci: " in line and text in line


def test_files_that_are_no_model(exported, tmp_path):
    with open(exported("map"), "rb") as file:
        content = file.read()
    cut, array = str(tmp_path / "cut.npz"), str(tmp_path / "array.npy")
    with open(cut, "wb") as file:
        file.write(content[: len(content) // 2])
    np.save(array, np.zeros(3))
    (tmp_path / "empty.npz").write_bytes(b"")
    for path in (cut, array, str(tmp_path / "empty.npz")):
        with pytest.raises(InputError, match="not a file of a model's integers"):
            decoding.read(path)
    for path in (str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(InputError, match=path):
            decoding.read(path)


def test_files_in_the_format_of_the_authors(exported, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.tfci").write_bytes(b"\n\x05abcde")
    monkeypatch.setattr(sys, "argv", ["decoding", exported("map"), str(tmp_path / "x.tfci")])
    with pytest.raises(SystemExit) as exit:
        decoding.main()
    assert exit.value.code == 2
    assert "x.tfci: in the authors' format" in capsys.readouterr().err


def test_integers_of_a_damaged_checkpoint(tmp_path, monkeypatch, capsys):
    shutil.copytree(os.path.join(DEMO_DIR, DEMO["map"]), str(tmp_path / DEMO["map"]))
    (path,) = (tmp_path / DEMO["map"]).glob("*.data-*")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    argv = ["export_integers", str(tmp_path), DEMO["map"], str(tmp_path / "x.npz")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as exit:
        export_integers.main()
    lines = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2 and "not a readable checkpoint" in lines[-1]
    assert not (tmp_path / "x.npz").exists()


def test_the_coder_in_python_is_that_of_constriction(monkeypatch):
    random = np.random.RandomState(0)
    words = random.randint(1, 2**32, 300, dtype=np.uint32)
    family = tables.Gaussians()
    codes, *_ = family.codes(random.uniform(-1, 1, 400), random.uniform(-8, 8, 400))
    symbols = random.randint(-9, 10, 400)
    symbols[:4] = [10000, -10000, 255, -256]
    results = []
    for coder in (stream, ans.stream):
        monkeypatch.setattr(stack, "stream", coder)
        own = stack.Stack(words)
        popped = own.pop(codes, tables.Gaussians(escape=False))
        own.push(symbols, codes, family)
        pushed = own.words()
        results.append((popped, pushed, own.pop(codes, family), own.words(), len(own)))
        np.testing.assert_array_equal(results[-1][2], symbols)
    np.testing.assert_equal(*results)
