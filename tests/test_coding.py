"""Each layer of the coder, compared with something independent of it."""

import ast
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
from conftest import DEMO, DEMO_DIR, ROOT
from constriction import stream

import utils
from coding import (
    arithmetic,
    bits_back_codec,
    container,
    exact_posterior,
    grid_codec,
    integer_model,
    integer_networks,
    tables,
)
from coding.integer_networks import UNIT
from coding.stack import Exhausted, Stack
from inference import optimise
from inference.noise import Noise
from model import checkpoints, entropy_models, hyperprior
from runtime.errors import InputError
from runtime.quiet_tf import tf


def rng():
    return np.random.RandomState(0)


def no_step(done, loss):
    """A progress callback for `exact_posterior.fit` that does nothing."""


@pytest.fixture(scope="module")
def base():
    return integer_model.load(checkpoints.find_run(DEMO_DIR, DEMO["sga"]), bits_back=False)


@pytest.fixture(scope="module")
def bits_back_run():
    return checkpoints.find_run(DEMO_DIR, DEMO["bb_sga"])


@pytest.fixture(scope="module")
def bb(bits_back_run):
    return integer_model.load(bits_back_run, bits_back=True)


# --- Arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ours, theirs, low, high, relative, absolute",
    [
        (arithmetic.exp, np.exp, -650, 650, 1e-14, 0),
        (arithmetic.tanh, np.tanh, -40, 40, 0, 1e-15),
        (arithmetic.sigmoid, scipy.special.expit, -600, 600, 1e-14, 0),
        (arithmetic.softplus, lambda x: np.logaddexp(0, x), -600, 600, 0, 1e-12),
        (lambda x: arithmetic.log(np.exp(x)), lambda x: x, -600, 600, 1e-14, 1e-15),
        (arithmetic.normal_cdf, scipy.stats.norm.cdf, -9, 9, 0, 1e-9),
        (lambda u: arithmetic.normal_tail(u)[0], scipy.stats.norm.sf, 0, 36, 1e-9, 0),
    ],
)
def test_functions(ours, theirs, low, high, relative, absolute):
    x = np.concatenate([rng().uniform(low, high, 100000), np.linspace(low, high, 1001)])
    np.testing.assert_allclose(ours(x), theirs(x), rtol=relative, atol=absolute)


# Functions of the C library, and powers of numbers other than 2, that determine no symbol: their
# results are only displayed, or are rounded to a coarser grid at once.
# Products of matrices of integers are exact.
ALLOWED = {
    "exact_posterior": ({"np.log"}, 0),
    "integer_model": ({"np.cos", "np.sin"}, 4),
    "compiled": ({"np.matmul"}, 0),
}
DECIDING = ("arithmetic", "tables", "stack", "integer_networks", "integer_model", "compiled")
DECIDING += ("kernels", "exact_posterior", "grid_codec", "bits_back_codec")


@pytest.mark.parametrize("name", DECIDING)
def test_nothing_depends_on_the_machine(name):
    """Everything else uses operations with the same result on every machine."""
    with open(os.path.join(ROOT, "coding", name + ".py")) as file:
        source = file.read()
    exact = {"floor", "ceil", "divmod", "rint", "sqrt", "abs", "ldexp", "frexp", "sign", "isfinite"}
    exact |= {"add", "multiply", "maximum", "minimum", "copysign"}
    inexact = {"np." + f for f, value in vars(np).items() if isinstance(value, np.ufunc)}
    inexact -= {"np." + f for f in exact}
    inexact |= {"math." + f for f in vars(math)} - {"math.factorial", "math.sqrt"}
    inexact |= {"np.linalg", "np.dot", "np.einsum", "np.mean", "np.fft"}
    powers = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and (
            getattr(node.left, "n", None) not in (2, 256)
            or isinstance(getattr(node.right, "n", 0), float)
        )
    ]
    functions, number = ALLOWED.get(name, (set(), 0))
    assert set(re.findall(r"\b(?:np|math)\.\w+", source)) & inexact == functions
    assert len(powers) == number


def test_the_container_handles_bytes_alone():
    """Reading a header does not load TensorFlow."""
    code = "import sys, coding.container; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_normal_quantiles():
    ours = arithmetic.normal_quantiles(16)
    np.testing.assert_allclose(
        ours, scipy.stats.norm.ppf((np.arange(2**16) + 0.5) / 2**16), 0, 1e-8
    )


# --- Networks --------------------------------------------------------------------------------


def integer_layer(layer, a):
    """A layer in int64: zero-insertion upsampling, then one sum per position and channel."""
    kernel, bias = layer.kernel.astype(np.int64), layer.bias.astype(np.int64)
    rows, columns = kernel.shape[:2]
    a = a.astype(np.int64)
    if layer.up:
        up = np.zeros((2 * a.shape[0], 2 * a.shape[1], a.shape[2]), np.int64)
        up[::2, ::2] = a
        a, kernel, stride = up, kernel[::-1, ::-1], 1
    else:
        stride = layer.stride
    a = np.pad(a, ((rows // 2,) * 2, (columns // 2,) * 2, (0, 0)), "constant")
    size = [-(-(side - 2 * (k // 2)) // stride) for side, k in zip(a.shape, (rows, columns))]
    output = np.zeros((*size, kernel.shape[3]), np.int64)
    for y, x in np.ndindex(*size):
        patch = a[y * stride : y * stride + rows, x * stride : x * stride + columns]
        output[y, x] = np.einsum("ijc,ijcd->d", patch, kernel) + bias
    output = (output + 2 ** (layer.bits - 1)) >> layer.bits
    low = 0 if layer.relu else -(2**26)
    return np.clip(output, low, 2**26)


def random_layer(random, channels_in, channels_out, support, stride, up, relu):
    """Weights whose sums come as close to 2^53 as `check_exact` allows."""
    kernel = random.uniform(-1, 1, (support, support, channels_in, channels_out))
    limit = (integer_networks.EXACT - 2**40) / integer_networks.GRADIENT_LARGEST
    sums = [np.abs(kernel).sum(axis=axes).max() for axes in ((0, 1, 2), (0, 1, 3))]
    kernel = np.trunc(kernel * limit / max(sums))
    bias = np.trunc(random.uniform(-1, 1, channels_out) * 2**39)
    layer = integer_networks.Layer(kernel, bias, stride, up, relu)
    integer_networks.check_exact(layer, "random")
    return layer


@pytest.mark.parametrize("seed", range(12))
def test_random_layers_up_to_the_bound_are_exact(seed):
    """With activations at the clamp and the largest weights allowed, layers equal int64."""
    random = np.random.RandomState(seed)
    up, stride, support = [(True, 2, 5), (False, 1, 3), (False, 2, 5)][seed % 3]
    layer = random_layer(random, 5, 6, support, stride, up, bool(seed % 2))
    a = random.choice([-integer_networks.CLAMP, integer_networks.CLAMP, 0, 12345], (6, 7, 5))
    if seed >= 6:  # all terms of a sum have the same sign, which gives the largest sum
        a = np.full_like(a, integer_networks.CLAMP)
        layer = layer._replace(kernel=np.abs(layer.kernel))
    np.testing.assert_array_equal(layer.forward(a), integer_layer(layer, a))


@pytest.mark.parametrize("size", [0.1, 30, 1000])
def test_large_weights_get_fewer_bits(size):
    """And they stay exact, forward and backward."""
    kernel = rng().uniform(-size, size, (5, 5, 6, 6))
    layer = integer_networks.integer_layer(
        kernel, kernel[0, 0, 0], "layer", stride=2, up=True, relu=False
    )
    assert (layer.bits == 16) == (size == 0.1)
    np.testing.assert_allclose(layer.kernel * 2.0**-layer.bits, kernel, atol=2.0**-layer.bits)
    a = rng().choice([-integer_networks.CLAMP, integer_networks.CLAMP, 4096], (4, 5, 6))
    np.testing.assert_array_equal(layer.forward(a), integer_layer(layer, a))
    back = layer.backward(rng().normal(0, 1, (8, 10, 6)), None)
    expected = integer_networks.correlate(
        rng().normal(0, 1, (8, 10, 6)), kernel.transpose(0, 1, 3, 2), 2
    )
    np.testing.assert_allclose(back, expected, rtol=1e-3, atol=1e-3 * size)


@pytest.mark.parametrize("size", [1e6, np.nan])
def test_too_large_weights_are_refused(size):
    with pytest.raises(InputError, match="too large"):
        kernel = np.full((5, 5, 8, 8), size)
        integer_networks.integer_layer(kernel, np.zeros(8), "layer", stride=2, up=True, relu=True)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("support, stride", [(5, 2), (3, 1)])
def test_the_way_back_is_the_transpose(up, support, stride):
    random = rng()
    kernel = random.randint(-9, 9, (support, support, 3, 4)).astype(np.float64)
    convolve, back = (integer_networks.spread, integer_networks.correlate)[:: 1 if up else -1]
    a = random.randint(-9, 9, (6, 8, 3)).astype(np.float64)
    b = convolve(a, kernel, stride)
    c = random.randint(-9, 9, b.shape).astype(np.float64)
    assert np.sum(b * c) == np.sum(a * back(c, kernel.transpose(0, 1, 3, 2), stride))


@pytest.mark.parametrize("script", ["sga", "bb_sga"])
def test_networks_are_those_of_the_float_model(script, base, bb):
    """Up to rounding; and they equal an implementation in int64 exactly."""
    decoder = base if script == "sga" else bb
    run = checkpoints.find_run(DEMO_DIR, DEMO[script])
    model_class = hyperprior.Mbt2018 if script == "sga" else hyperprior.Mbt2018BB
    z, y = rng().randint(-3, 4, (3, 4, 32)), rng().randint(-9, 10, (11, 14, 32))
    z, y = z.astype(np.float64), y.astype(np.float64)
    with tf.Graph().as_default(), tf.Session() as session:
        model = hyperprior.build(model_class, checkpoints.load(model_class, run))
        z_, y_ = (tf.constant(v[None], tf.float32) for v in (z, y))
        (mu, sigma), other = session.run([model.hyper_synthesis(z_, y_), model.hyper_analysis(y_)])
    ours = decoder.hyper_synthesis.forward(z / UNIT, (11, 14))
    np.testing.assert_allclose(ours[0] * UNIT, mu[0], rtol=1e-3, atol=5e-3)
    np.testing.assert_allclose(ours[1] * UNIT, np.log(sigma[0]), rtol=1e-3, atol=5e-3)
    a = z / UNIT
    for layer, activation in zip(decoder.hyper_synthesis.layers, ours[2]):
        a = integer_layer(layer, a)
        np.testing.assert_array_equal(a, activation)
    if script == "bb_sga":
        z_mean, z_logvar = decoder.hyper_analysis.forward(y)
        np.testing.assert_allclose(z_mean, other["z_mean"][0], rtol=1e-3, atol=5e-3)
        np.testing.assert_allclose(z_logvar, other["z_logvar"][0], rtol=1e-3, atol=5e-3)
        a = y / UNIT
        for layer in decoder.hyper_analysis.layers:
            a = integer_layer(layer, a)
        np.testing.assert_array_equal(np.concatenate([z_mean, z_logvar], axis=-1), a * UNIT)


def test_the_digest_tells_models_apart(base, bb, untrained):
    runs = [checkpoints.find_run(str(untrained), "mbt2018-num_filters=4-lmbda=0.01")]
    digests = {base.digest, bb.digest, *(integer_model.load(run, False).digest for run in runs)}
    assert len(digests) == 3
    again = integer_model.load(checkpoints.find_run(DEMO_DIR, DEMO["sga"]), bits_back=False)
    assert again.digest == base.digest


# --- Tables ----------------------------------------------------------------------------------


def test_tables_of_gaussians():
    gaussians = tables.Gaussians()
    mean = rng().uniform(-3, 3, 300)
    sigma = np.exp(rng().uniform(np.log(0.005), np.log(250), 300))
    codes, shifts, table_mean, log2_sigma = gaussians.codes(mean, np.log2(sigma))
    np.testing.assert_allclose(2**log2_sigma, sigma, rtol=0.011)
    assert np.all(np.abs(table_mean - mean) <= np.maximum(1 / 256, sigma / 32))
    for i, table in enumerate(gaussians.tables(codes)):
        symbols = table.first + np.arange(len(table.probabilities) - 1) + shifts[i]
        law = scipy.stats.norm(table_mean[i], 2 ** log2_sigma[i])
        mass = law.cdf(symbols + 0.5) - law.cdf(symbols - 0.5)
        np.testing.assert_allclose(table.probabilities[1:], mass, atol=8e-6 + len(symbols) / 2**24)
        assert table.probabilities[0] <= 9e-6


@pytest.mark.parametrize("sigma", [2.0**-8, 0.04, 1.0, 256.0])
@pytest.mark.parametrize("escape", [True, False])
def test_the_coder_has_the_integer_frequencies(sigma, escape):
    """The coder derives its tables from ours in floats; this searches the bounds of each entry."""
    codes, *_ = tables.Gaussians(escape).codes(np.array([0.3]), np.array([np.log2(sigma)]))
    (table,) = tables.Gaussians(escape).tables(codes)
    frequencies = np.rint(table.probabilities * 2**24).astype(np.int64)
    assert frequencies.min() >= 1 and frequencies.sum() == 2**24
    np.testing.assert_array_equal(frequencies / 2**24, table.probabilities)
    model = stream.model.Categorical(table.probabilities)
    bounds = np.concatenate([[0], np.cumsum(frequencies)])
    for entry in range(len(frequencies)):
        for place in (bounds[entry], bounds[entry + 1] - 1):
            coder = stream.stack.AnsCoder(np.array([1, 2, 3], np.uint32))
            coder.encode_reverse(np.array([place], np.int32), stream.model.Uniform(2**24))
            assert coder.decode(model) == entry


@pytest.mark.parametrize("spacing", [1.0, 1 / 16])
def test_tables_of_the_prior(spacing, bb, bits_back_run):
    """They agree with the logits of TFC's graph in float64."""
    weights = checkpoints.load(hyperprior.Mbt2018BB, bits_back_run)["prior"]
    medians = rng().uniform(-1, 1, 32)
    ours = tables.PriorTables(bb.prior, medians, spacing).tables(np.arange(32))
    for channel, table in enumerate(ours):
        symbols = table.first + np.arange(len(table.probabilities) - 1)
        edges = medians[channel] + spacing * (np.append(symbols, symbols[-1] + 1) - 0.5)
        v = edges[None]
        for i, (matrix, bias) in enumerate(zip(weights.matrices, weights.biases)):
            v = matrix[channel].astype(np.float64) @ v + bias[channel]
            if i < len(weights.factors):
                v = v + weights.factors[i][channel] * np.tanh(v)
        mass = np.diff(scipy.special.expit(v[0]))
        np.testing.assert_allclose(table.probabilities[1:], mass, atol=9e-6 + len(mass) / 2**24)


# --- The stack -------------------------------------------------------------------------------


def check_codec(push, pop, message):
    """Checks that `pop` returns what was pushed and restores the stack."""
    before = Stack(rng().randint(1, 2**32, 20000, dtype=np.uint32))
    stack = before.copy()
    push(stack, message)
    popped = pop(stack)
    np.testing.assert_array_equal(popped, message)
    np.testing.assert_array_equal(stack.words(), before.words())


def check_bits_back(pop, push, shape):
    """The reverse, as for q in bits-back coding: pushing what was popped restores the stack."""
    before = Stack(rng().randint(1, 2**32, 20000, dtype=np.uint32))
    stack = before.copy()
    message = pop(stack)
    assert message.shape == shape and len(stack.words()) <= len(before.words())
    push(stack, message)
    np.testing.assert_array_equal(stack.words(), before.words())


SIGMAS = pytest.mark.parametrize("log2_sigma", [-8.0, -4.6, 0.0, 8.0, -30.0, 30.0])


@SIGMAS
def test_codec_of_gaussians(log2_sigma):
    family = tables.Gaussians()
    codes, *_ = family.codes(rng().uniform(-1, 1, (7, 9)), np.full((7, 9), log2_sigma))
    symbols = rng().randint(-3, 4, (7, 9))
    symbols[0] = [10000, -10000, 2**31 - 1, -(2**31) + 1, 255, -256, 65536, -65537, 2**24]
    check_codec(
        lambda stack, message: stack.push(message, codes, family),
        lambda stack: stack.pop(codes, family),
        symbols,
    )


@SIGMAS
def test_codec_of_q(log2_sigma):
    family = tables.Gaussians(escape=False)
    codes, *_ = family.codes(rng().uniform(-1, 1, (30, 50)), np.full((30, 50), log2_sigma))
    check_bits_back(
        lambda stack: stack.pop(codes, family),
        lambda stack, message: stack.push(message, codes, family),
        (30, 50),
    )


def test_codec_of_the_prior(bb):
    family = tables.PriorTables(bb.prior, bb.medians, 1 / 16)
    channels = grid_codec.channels((5, 6, 32))
    symbols = rng().randint(-40, 41, (5, 6, 32))
    symbols[0, 0, :2] = [160000, -160000]
    check_codec(
        lambda stack, message: stack.push(message, channels, family),
        lambda stack: stack.pop(channels, family),
        symbols,
    )


def test_codec_of_bits_back(bb):
    """Pushes and pops whole images, with latents far in the tails."""
    settings = container.BitsBack(4, container.Settings(3, 3e-3, 0.9, 0.999, 1e-8), 0, None)
    y = rng().randint(-5, 6, (4, 6, 32)).astype(np.float64)
    y[0, 0, :2] = [10000, -10000]
    before = rng().randint(1, 2**32, 20000, dtype=np.uint32)
    codec = bits_back_codec.BitsBackCodec(bb, settings, Stack(before))
    q = codec.posterior(y, 64 * 96, no_step)
    z = codec.push(y, q)
    assert np.all(z * 2**4 % 1 == 0) and np.any(z * 2**3 % 1 != 0)
    popped = codec.pop(64, 96, lambda y: codec.posterior(y, 64 * 96, no_step))
    np.testing.assert_array_equal(popped[0], y)
    np.testing.assert_array_equal(popped[1], z)
    np.testing.assert_array_equal(codec.stack.words(), before)


@pytest.mark.parametrize("z_bits", [1, 6])
def test_z_is_a_sample_of_q_on_its_grid(z_bits, bb):
    settings = container.BitsBack(z_bits, container.Settings(), 0, None)
    y = rng().randint(-1, 2, (16, 16, 32)).astype(np.float64)
    codec = bits_back_codec.BitsBackCodec(bb, settings)
    q = codec.posterior(y, 256 * 256, no_step)
    z = codec.push(y, q)
    assert np.all(z * 2**z_bits % 1 == 0) and np.any(z * 2 ** (z_bits - 1) % 1 != 0)
    # Rounding to the grid adds the variance of U(-½, ½) grid steps.
    variance = np.exp(q.z_logvar) + 4.0**-z_bits / 12
    assert np.mean((z - q.z_mean) ** 2 / variance) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("kind", container.KINDS[:3])
def test_codec_of_grids(kind, base):
    codec = grid_codec.GridCodec(base, kind)
    y, z = rng().normal(0, 3, (5, 6, 32)), rng().normal(0, 3, (2, 2, 32))
    y[0, 0, :4], z[0, 0, :2] = [10000, -10000, 123456, -99999.4], [10000, -10000]
    y[1, 0, :4], z[1, 0, :4] = [-1.5, -0.5, 0.5, 1.5], [-1.5, -0.5, 0.5, 1.5]
    y, z = np.float32(y), np.float32(z)  # as TensorFlow gives them
    words, sent = codec.encode(y, z)
    decoded = codec.decode(words, 75, 90)
    for name, latent in (("y", y), ("z", z)):
        assert sent[name].dtype == np.float64
        np.testing.assert_array_equal(decoded[name], sent[name])
        assert np.abs(sent[name] - latent).max() <= 0.5
    if kind == container.INTEGERS:
        np.testing.assert_array_equal(sent["y"], np.round(y))
        np.testing.assert_array_equal(sent["z"], np.round(z))
        np.testing.assert_array_equal(sent["y"][1, 0, :4], [-2, 0, 0, 2])
    else:
        # A tie goes up.
        np.testing.assert_array_equal(
            grid_codec.nearest(np.array([0.75, -0.25]), 0.25), [1.25, 0.25]
        )


def test_padding_suffices_for_a_single_element(bb):
    """However improbable the element is."""
    settings = container.BitsBack(4, container.Settings(), 0, None)
    for seed in range(50):
        codec = bits_back_codec.BitsBackCodec(bb, settings._replace(seed=seed))
        codes, shifts, *_ = tables.Gaussians().codes(np.zeros((1, 1, 1)), np.full((1, 1, 1), 8.0))
        q = bits_back_codec.Posterior(codes, shifts, None, None, None)
        codec._pop_z(q)


def test_no_bits_are_no_latents(base):
    """An empty payload would pop endless escapes of symbols that their tables contain."""
    with pytest.raises(InputError, match="escape"):
        grid_codec.GridCodec(base, container.INTEGERS).decode(np.zeros(0, np.uint32), 64, 64)


def test_too_few_bits_are_noticed(bb):
    """Exactly as many words as are popped suffice; one word less is an error."""
    settings = container.BitsBack(4, container.Settings(), 0, None)
    y = rng().randint(-5, 6, (4, 6, 32)).astype(np.float64)
    codec = bits_back_codec.BitsBackCodec(bb, settings)
    q = codec.posterior(y, 64 * 96, no_step)
    codec.push(y, q)
    words = codec.finish()
    unpacked = bits_back_codec.BitsBackCodec(bb, settings, Stack(words))
    unpacked.pop(64, 96, lambda y: q)
    initial = unpacked.stack.words()
    assert len(initial) == codec.initial_words
    bits_back_codec.BitsBackCodec(bb, settings, Stack(initial)).push(y, q)
    with pytest.raises(Exhausted):
        bits_back_codec.BitsBackCodec(bb, settings, Stack(initial[1:])).push(y, q)


@pytest.mark.parametrize("content", [b"", b"a", b"\0" * 6, bytes(range(256)) * 3 + b"\0\0"])
def test_side_information(content):
    stack = bits_back_codec.side_information(content, seed=7)
    assert bits_back_codec.read_side_information(stack, len(content), 7) == content
    with pytest.raises(InputError):
        bits_back_codec.read_side_information(stack, len(content) + 4, 7)


# --- q(z|y) ----------------------------------------------------------------------------------


def test_gradients_are_those_of_tensorflow(bb, bits_back_run):
    """Gradients of -log p(y|z) - log p(z) in z, some values of which are at a bound."""
    y = rng().randint(-4, 5, (12, 16, 32)).astype(np.float64)
    y[0, :3] = 30
    with tf.Graph().as_default(), tf.Session() as session:
        weights = checkpoints.load(hyperprior.Mbt2018BB, bits_back_run)
        model = hyperprior.build(hyperprior.Mbt2018BB, weights)
        y_ = tf.constant(y[None], tf.float32)
        z_mean = model.hyper_analysis(y_)["z_mean"]
        # Away from activations near zero, where rounding decides if a ReLU passes the gradient.
        z_ = tf.round(z_mean * 4096) / 4096
        mass = entropy_models.gaussian_mass(y_, *model.hyper_synthesis(z_, y_))
        bound = entropy_models.bound_likelihood
        nats = -tf.reduce_sum(tf.log(bound(mass))) - tf.reduce_sum(tf.log(model.p_z(z_)))
        z, value, gradient = session.run([z_, nats, tf.gradients(nats, z_)[0]])
    z = z[0].astype(np.float64)
    # At a log-variance of 0 and noise of 0, log q(z) is a constant.
    at_mean = (bb, y, z, np.zeros_like(z), np.zeros_like(z))
    ours = exact_posterior.free_energy(*at_mean) + z.size * 0.5 * np.log(2 * np.pi)
    assert ours == pytest.approx(value, rel=5e-4)
    ours_gradient = exact_posterior.y_gradient(bb.hyper_synthesis, y, z / UNIT)
    ours_gradient = ours_gradient + exact_posterior.prior(z, bb.prior.weights)[0]
    error = np.linalg.norm(ours_gradient - gradient[0]) / np.linalg.norm(gradient)
    assert error < 0.03


def test_gradients_are_those_of_finite_differences(bb):
    """For the parts without rounding."""
    y, mu = rng().randint(-4, 5, 500).astype(np.float64), rng().normal(0, 2, 500)
    log_sigma = rng().uniform(-1, 2, 500)
    mu_gradient, log_sigma_gradient, _ = exact_posterior.gaussian(y, mu, log_sigma)
    h = 1e-5
    for gradient, shifted in (
        (mu_gradient, lambda s: (y, mu + s, log_sigma)),
        (log_sigma_gradient, lambda s: (y, mu, log_sigma + s)),
    ):

        def nats(s, shifted=shifted):
            y_, mu_, log_sigma_ = shifted(s)
            law = scipy.stats.norm(mu_, np.exp(log_sigma_))
            sign = np.sign(y_ - mu_)  # both ends in the left tail
            mass = np.abs(
                scipy.stats.norm.cdf((0.5 - sign * (y_ - mu_)) / law.std())
                - scipy.stats.norm.cdf((-0.5 - sign * (y_ - mu_)) / law.std())
            )
            return -np.log(np.maximum(mass, 1e-9))

        clear = nats(0) < 19  # not bounded
        assert clear.sum() > 400
        numeric = (nats(h) - nats(-h)) / (2 * h)
        np.testing.assert_allclose(gradient[clear], numeric[clear], rtol=2e-4, atol=2e-4)
    z = rng().normal(0, 2, (3, 4, 32))
    density = lambda z: np.sum(np.log(exact_posterior.prior(z, bb.prior.weights)[1]))  # noqa: E731
    gradient, _ = exact_posterior.prior(z, bb.prior.weights)
    for place in [(0, 0, 0), (1, 2, 5), (2, 3, 31)]:
        shift = np.zeros_like(z)
        shift[place] = h
        numeric = -(density(z + shift) - density(z - shift)) / (2 * h)
        assert gradient[place] == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_adam_is_that_of_tensorflow():
    settings = container.Settings(5, 3e-3, 0.8, 0.99, 1e-4)
    gradients = rng().normal(0, 1, (5, 7))
    ours = np.zeros((3, 7))
    rates = exact_posterior.adam_rates(settings)
    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable("v", initializer=tf.zeros(7, tf.float64))
        gradient = tf.placeholder(tf.float64, 7)
        optimizer = tf.train.AdamOptimizer(*settings[1:])
        update = optimizer.apply_gradients([(gradient, variable)])
        session.run(tf.global_variables_initializer())
        for g in gradients:
            session.run(update, {gradient: g})
            value, mean, square = ours
            ours = exact_posterior.update(value, g, mean, square, next(rates), *settings[2:])
            np.testing.assert_allclose(
                ours[0], session.run(variable), rtol=1e-5
            )  # float32 settings


def test_noise_of_q():
    """The noise is standard normal, and differs between seeds, y and steps."""
    y = rng().randint(-4, 5, (4, 6, 8)).astype(np.float64)
    shape = (40, 50, 3)
    drawn = [
        exact_posterior._Noise(0, y).normal(0, shape),
        exact_posterior._Noise(0, y).normal(1, shape),
        exact_posterior._Noise(1, y).normal(0, shape),
        exact_posterior._Noise(0, y + 1).normal(0, shape),
    ]
    for i, noise in enumerate(drawn):
        assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
        for other in drawn[:i]:
            assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.06
    np.testing.assert_array_equal(drawn[0], exact_posterior._Noise(0, y).normal(0, shape))


def test_q_is_as_good_as_that_of_tensorflow(bb, bits_back_run):
    """After the same number of steps, the expected net rate over z agrees within 0.2%."""
    pixels = utils.read_image(os.path.join(ROOT, "samples", "chelsea.png"))[40:232, 60:316]
    num_pixels = pixels.shape[0] * pixels.shape[1]
    settings = container.Settings(400, 5e-3, 0.9, 0.999, 1e-8)
    with tf.Graph().as_default(), tf.Session() as session:
        weights = checkpoints.load(hyperprior.Mbt2018BB, bits_back_run)
        model = hyperprior.build(hyperprior.Mbt2018BB, weights)
        y = tf.round(model.analysis(tf.constant(pixels[None] / np.float32(255))))
        y = tf.constant(session.run(y))
        noise = Noise(tf.constant([1], tf.int64))

        def loss(**latents):
            return tf.reduce_mean(model.rates(num_pixels, **latents)["bpp"]), {}

        def sampled(t, z_mean, z_logvar):
            normal = noise.at(t, "z").normal(z_mean)
            return {"y": y, **model.sample(z_mean, z_logvar, normal)}

        start = model.hyper_analysis(y)
        stage = optimise.Stage(
            start,
            loss,
            sampled,
            lambda **q: sampled(0, **q),
            settings.its,
            lambda t: settings.lr,
            settings,
        )
        session.run(tf.global_variables_initializer())
        stage.run(session, lambda done: None, lambda *figures: None)
        z_mean, z_logvar, _ = exact_posterior.fit(
            bb, session.run(y)[0].astype(np.float64), num_pixels, settings, 0, no_step
        )
        q = {key: tf.placeholder(tf.float32, value.shape) for key, value in start.items()}
        rate, _ = loss(**sampled(tf.placeholder_with_default(0, (), "t"), **q))
        means = []
        for values in (
            session.run(start),
            session.run(stage.latents),
            {"z_mean": z_mean[None], "z_logvar": z_logvar[None]},
        ):
            feed = {q[key]: value for key, value in values.items()}
            means.append(np.mean([session.run(rate, {**feed, "t:0": t}) for t in range(100)]))
    before, theirs, ours = means
    assert theirs < 0.99 * before
    assert ours == pytest.approx(theirs, rel=2e-3)
    print("net rate: h_a {:.5f}, TensorFlow {:.5f}, here {:.5f} bits per pixel".format(*means))
