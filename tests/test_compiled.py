"""The compiled iterations of q(z|y), which have to equal those in NumPy to the last bit."""

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import DEMO, DEMO_DIR, ROOT

from coding import container, exact_posterior, integer_model, integer_networks
from model import checkpoints

numba = pytest.importorskip("numba", reason="numba, which requirements.txt names, is not installed")

import llvmlite.binding as llvm  # noqa: E402

from coding import compiled, kernels  # noqa: E402

SETTINGS = container.Settings(3, 3e-2, 0.9, 0.999, 1e-8)


@pytest.fixture(scope="module")
def bb():
    return integer_model.load(checkpoints.find_run(DEMO_DIR, DEMO["bb_sga"]), bits_back=True)


def iterate(iterations_class, decoder, size):
    """The mean and log-variance of q after a few iterations for a random y of `size`."""
    random = np.random.RandomState(0)
    y = random.normal(0, 2, (*size, 32)).round()
    y[0, :3] = 1000
    q = decoder.hyper_analysis.forward(y)
    iterations = iterations_class(decoder, y, *q, 1e-4, SETTINGS)
    for rate, _ in zip(exact_posterior.adam_rates(SETTINGS), range(SETTINGS.its)):
        iterations.run(random.normal(0, 1, iterations.mean.shape), rate)
    return iterations.mean, iterations.logvar


# The last one takes several bands of tiles and is large enough for several threads.
SIZES = [(1, 1), (11, 14), (7, 23), (40, 56)]


@pytest.mark.parametrize("size", SIZES)
def test_iterations_equal_those_in_numpy(size, bb):
    ours = iterate(compiled.Iterations, bb, size)
    expected = iterate(exact_posterior.Iterations, bb, size)
    start = bb.hyper_analysis.forward(np.zeros((*size, 32)))
    for values, others, before in zip(ours, expected, start):
        np.testing.assert_array_equal(values, others)
        assert np.abs(values - before).max() > 0.05


def test_fits_use_them_if_they_pay(bb, monkeypatch):
    """And have the same record."""
    y = np.random.RandomState(0).normal(0, 2, (8, 12, 32)).round()
    used = []
    run = compiled.Iterations.run
    monkeypatch.setattr(compiled.Iterations, "run", lambda *a: used.append(a) or run(*a))
    fits = []
    for worth in (1, 2**60):
        monkeypatch.setattr(exact_posterior, "_WORTH_COMPILING", worth)
        fits.append(exact_posterior.fit(bb, y, 128 * 192, SETTINGS, 0, lambda *_: None))
    assert len(used) == SETTINGS.its
    for values, others in zip(*fits):
        np.testing.assert_equal(values, others)


def test_without_numba_fits_use_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "coding.compiled", None)
    monkeypatch.delattr("coding.compiled")
    assert exact_posterior._iterations(2**60) is exact_posterior.Iterations


# --- Elements --------------------------------------------------------------------------------


def columns(random, number, *scales):
    """Arrays (1, number, 8) of random values up to each of `scales`, small and large ones."""
    shape = (len(scales), 1, number, 8)
    values = random.normal(0, 1, shape) * 2.0 ** random.randint(-20, 3, shape)
    return values * np.reshape(scales, (-1, 1, 1, 1)) / 8


def padded(values):
    return np.pad(values, ((1, 1), (1, 1), (0, 0)), "constant")


def test_elements_equal_numpy():
    """For many values, also beyond those at which they are clipped."""
    random = np.random.RandomState(0)
    number = 5000
    y, *parameters = columns(random, number, 1e4, 2.0**25, 2.0**22)
    y, parameters = y.round(), np.concatenate(parameters, axis=2).round()
    gradient = np.zeros_like(parameters)
    kernels.gaussian_rows(0, 1, np.zeros(16), y, padded(parameters), gradient)
    expected = exact_posterior.gaussian(y, *np.split(parameters * integer_networks.UNIT, 2, axis=2))
    np.testing.assert_array_equal(gradient, np.concatenate(expected[:2], axis=2))
    assert np.mean(expected[2] == 1e-9) > 0.1 and np.mean(expected[2] > 0.01) > 0.1

    mean, logvar, normal, z, deviation = columns(random, number, 100, 300, 5, 0, 0)
    grid = padded(z)
    kernels.sample_rows(0, 1, mean, logvar, normal, z, deviation, grid)
    expected = exact_posterior.sample(mean, logvar, normal)
    limits = -integer_networks.CLAMP, integer_networks.CLAMP
    for ours, theirs in zip((z, deviation, grid[1:-1, 1:-1]), (*expected[:2], expected[2])):
        np.testing.assert_array_equal(
            ours, np.clip(theirs, *limits) if ours.base is grid else theirs
        )

    z, deviation, gradient = columns(random, number, 40, 40, 1)
    weights = random.normal(0, 1, (integer_networks.PRIOR_WEIGHTS, 8))
    values, moments = random.normal(0, 1, (2, *z.shape)), random.uniform(0, 1, (2, 2, *z.shape))
    of_z = gradient + exact_posterior.prior(z, weights)[0]
    adam = (0.9, 0.999, 1e-8)
    expected = [
        exact_posterior.update(value, 1e-3 * g, *pair, 0.01, *adam)
        for value, g, pair in zip(values, exact_posterior.q_gradients(of_z, deviation), moments)
    ]
    kernels.update_rows(0, 1, z, deviation, gradient, weights, 1e-3, 0.01, adam, values, moments)
    for k, (value, *pair) in enumerate(expected):
        np.testing.assert_array_equal(values[k], value)
        np.testing.assert_array_equal(moments[k], pair)


KERNELS = ("sample_rows", "gaussian_rows", "update_rows", "activate", "differentiate", "quantise")
FUSED = r"\bv?fn?m(?:add|sub|la|ls)"
PROCESSORS = {"x86_64-unknown-linux-gnu": "haswell", "aarch64-unknown-linux-gnu": "cortex-a76"}


@pytest.mark.parametrize("name", KERNELS)
def test_no_operations_are_fused(name, bb):
    """A fused product and sum is rounded once, where NumPy rounds twice."""
    iterate(compiled.Iterations, bb, (4, 4))
    cached = getattr(kernels, name)  # numba does not show the code of what it loads
    kernel = numba.njit(cached.py_func, **kernels.OPTIONS)
    kernel.compile(cached.signatures[0])
    (code,) = kernel.inspect_llvm().values()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    for triple, cpu in PROCESSORS.items():
        machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
        module = llvm.parse_assembly(re.sub("target (triple|datalayout).*", "", code))
        module.triple = triple
        assembly = machine.emit_assembly(module)
        assert "mul" in assembly and not re.search(FUSED, assembly)


# Another set of instructions, in a process of its own.
ITERATE = """
import sys
sys.path.insert(0, "tests")
import test_compiled
print(test_compiled.digest(test_compiled.SIZES[1]))
"""


def digest(size):
    decoder = integer_model.load(checkpoints.find_run(DEMO_DIR, DEMO["bb_sga"]), bits_back=True)
    mean, logvar = iterate(compiled.Iterations, decoder, size)
    return hashlib.sha256(mean.tobytes() + logvar.tobytes()).hexdigest()


def test_other_processors_have_the_same_results():
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    environment.update(OPENBLAS_CORETYPE="Prescott", OPENBLAS_NUM_THREADS="1")
    process = subprocess.run(
        [sys.executable, "-c", ITERATE],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.strip() == digest(SIZES[1])


# --- Layers ----------------------------------------------------------------------------------


def random_layer(random, up, largest, relu=True):
    """A layer of random weights up to `largest`, of 5 × 5 (up) or 3 × 3."""
    support = 5 if up else 3
    kernel = random.uniform(-largest, largest, (support, support, 5, 6))
    bias = random.uniform(-largest, largest, 6)
    stride = 2 if up else 1
    return integer_networks.integer_layer(kernel, bias, "random", stride=stride, up=up, relu=relu)


def both_ways(layer, a, of_output):
    """Output, gradient in the input, and its largest magnitude, of compiled and of NumPy layers."""
    size = a.shape[:2]
    before = compiled._Convolution(random_layer(np.random.RandomState(9), False, 0.1), None, size)
    before.layer = before.layer._replace(kernel=np.zeros((3, 3, 5, 5)))
    before.output = compiled._padded(size, 5)
    convolution = compiled._Convolution(layer, before, size)
    compiled._inside(convolution.input, size)[:] = a
    workspace = [np.empty(number) for number in convolution.workspace()]
    convolution.forward(workspace)
    output = layer.forward(a)
    ours = compiled._inside(convolution.output, output.shape)
    convolution.gradient[:] = of_output * (output > 0) if layer.relu else of_output
    gradient = np.empty(a.shape)
    peak = convolution.backward(np.abs(convolution.gradient).max(), gradient, workspace)
    expected = layer.backward(of_output, output) * (a > 0)
    return (ours, gradient, peak), (output, expected, np.abs(expected).max())


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("largest, fast", [(0.3, True), (20, False)])
def test_layers_are_exact_up_to_the_bound(up, largest, fast, monkeypatch):
    """And beyond what Winograd's algorithm can do, they are computed without it."""
    random = np.random.RandomState(0)
    too_large = []
    are_exact = compiled._Product._are_exact
    monkeypatch.setattr(
        compiled._Product,
        "_are_exact",
        lambda *args: are_exact(*args) or bool(too_large.append(args)),
    )
    layer = random_layer(random, up, largest)
    clamp = integer_networks.CLAMP
    a = random.choice([-clamp, clamp, 0, 12345], (7, 9, 5)) if not fast else None
    a = random.randint(-(2**20), 2**20, (7, 9, 5)).astype(float) if fast else a
    of_output = random.normal(0, 1, layer.forward(a).shape)
    if not fast:
        of_output = np.sign(of_output)
    for ours, expected in zip(*both_ways(layer, a, of_output)):
        np.testing.assert_array_equal(ours, expected)
    assert len(too_large) == (0 if fast else 2)


def test_the_bound_is_one(monkeypatch):
    """No product or sum of the transforms exceeds it, in integers of arbitrary size."""
    random = np.random.RandomState(0)
    kernel = random.randint(-(2**16), 2**16, (3, 3, 5, 6)).astype(float)
    product = compiled._Product(compiled._transformed(kernel), 0, (2, 2))
    a = random.choice([-(2.0**28), 2.0**28], (4, 4, 5))
    _, _, products = next(product.bands(a, [np.empty(10**4) for _ in range(2)]))
    row = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    peaks = []
    monkeypatch.setattr(compiled, "EXACT", 0)
    for bound in np.linspace(44, 53, 40):
        monkeypatch.setattr(compiled, "EXACT", 2**bound)
        peaks.append(product._are_exact(np.abs(tiles_of(a))))
    allowed = 2 ** np.linspace(44, 53, 40)[int(np.argmax(peaks))]
    magnitudes = np.abs(products[:, 0].reshape(4, 4, 6))
    largest = np.einsum("ai,bj,ijd->abd", np.abs(row), np.abs(row), magnitudes).max()
    assert any(peaks) and not all(peaks) and largest < allowed


def tiles_of(a):
    """Bᵀ X B of one tile (4, 4, C), as (16, C)."""
    transform = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
    return np.einsum("ik,jl,klc->ijc", transform, transform, a).reshape(16, -1)
