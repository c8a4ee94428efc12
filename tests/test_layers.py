"""The layers of both devices, compared with TFC's and each other, including gradients."""

import numpy as np
import pytest

import utils
from model import bounds, cpu_layers, layers, parameters
from runtime.quiet_tf import tf, tfc


@pytest.fixture(autouse=True)
def fresh_graph():
    with tf.Graph().as_default():
        yield


def normal(rng, *shape):
    return tf.constant(rng.normal(0, 1, shape), tf.float32)


def with_gradients(y, *inputs):
    """Values of `y`, and its gradients weighted with fixed random numbers."""
    pull = tf.constant(np.random.RandomState(1).normal(0, 1, y.shape), tf.float32)
    with tf.Session() as session:
        return session.run([y, *tf.gradients(y, inputs, pull)])


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * np.abs(b).max())


def signal_conv(x, kernel, **kwargs):
    """TFC's convolution with a tensor as its kernel."""
    support = tuple(kernel.shape.as_list()[:2])
    given = tfc.StaticParameterizer(kernel)
    layer = tfc.SignalConv2D(
        int(kernel.shape[3]), support, kernel_parameterizer=given, padding="same_zeros", **kwargs
    )
    return layer(x)


CONVOLUTIONS = {  # ours given the module of layers, support, and TFC's name
    "down": (lambda ops, x, k: ops.conv_down(x, k), 5, {"corr": True, "strides_down": 2}),
    "up": (lambda ops, x, k: ops.conv_up(x, k), 5, {"corr": False, "strides_up": 2}),
    "plain 3": (lambda ops, x, k: ops.conv(x, k), 3, {"corr": True}),
    "plain 5": (lambda ops, x, k: ops.conv(x, k), 5, {"corr": True}),
    "flipped": (lambda ops, x, k: ops.conv(x, ops.flipped(k)), 3, {"corr": False}),
}


@pytest.mark.parametrize("ops", [layers, cpu_layers])
@pytest.mark.parametrize("name", list(CONVOLUTIONS))
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (13, 4)])
@pytest.mark.parametrize("channels", [(3, 20), (20, 3)])
def test_convolutions_equal_those_of_tfc(ops, name, size, channels):
    """With gradients of inputs and of weights."""
    rng = np.random.RandomState(0)
    ours, support, theirs = CONVOLUTIONS[name]
    x, kernel = normal(rng, 2, *size, channels[0]), normal(rng, support, support, *channels)
    theirs = signal_conv(x, kernel, **theirs)
    y = ours(ops, x, kernel)
    assert y.shape == theirs.shape
    assert_close(with_gradients(y, x), with_gradients(theirs, x))
    # In training the kernel is not a constant, so nothing is computed from it in advance.
    trained = tf.identity(kernel)
    y = ours(ops, x, trained)
    assert_close(with_gradients(y, x, trained), with_gradients(theirs, x, kernel))


@pytest.mark.parametrize("ops", [layers, cpu_layers])
@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_equals_that_of_tfc(ops, inverse):
    rng = np.random.RandomState(0)
    x = normal(rng, 2, 5, 3, 7)
    beta, gamma = 1 + tf.math.abs(normal(rng, 7)), tf.math.abs(normal(rng, 7, 7))
    given = [tfc.StaticParameterizer(value) for value in (beta, gamma)]
    theirs = tfc.GDN(inverse=inverse, beta_parameterizer=given[0], gamma_parameterizer=given[1])(x)
    ours = ops.gdn(x, beta, gamma, inverse)
    assert_close(with_gradients(ours, x, beta, gamma), with_gradients(theirs, x, beta, gamma))


def test_both_modules_have_the_same_functions_of_equal_values():
    def public(module):
        return {
            name
            for name, value in vars(module).items()
            if callable(value) and value.__module__ == module.__name__ and name[0] != "_"
        }

    assert public(layers) <= public(cpu_layers)
    rng = np.random.RandomState(0)
    x, target, bias = normal(rng, 2, 9, 8, 6), normal(rng, 2, 9, 8, 6), normal(rng, 6)
    beta, gamma = 1 + tf.math.abs(bias), tf.math.abs(normal(rng, 6, 6))
    kernel = normal(rng, 5, 5, 6, 20)
    for values in (
        lambda ops: (ops.bias_add(x, bias), x, bias),
        lambda ops: (ops.mean_squared_error(target, x), x),
        lambda ops: (ops.gdn(x, beta, gamma), x, beta, gamma),
        lambda ops: (ops.gdn(x, beta, gamma, inverse=True), x, beta, gamma),
        lambda ops: (ops.conv(x, kernel), x, kernel),
        lambda ops: (ops.conv_down(x, kernel), x, kernel),
        lambda ops: (ops.conv_up(x, kernel), x, kernel),
    ):
        assert_close(with_gradients(*values(layers)), with_gradients(*values(cpu_layers)))


# --- Replacements of TFC ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lower_bound", "upper_bound"])
def test_bounds_are_those_of_tfc_to_the_last_bit(name):
    rng = np.random.RandomState(0)
    v = normal(rng, 400)
    ours = with_gradients(getattr(bounds, name)(v, 0.3), v)
    theirs = with_gradients(getattr(tfc, name)(v, 0.3), v)
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)
    bounded = np.abs(ours[0] - 0.3) < 1e-6
    assert 0 < np.count_nonzero(ours[1][bounded]) < bounded.sum() < 400


PARAMETERS = {
    "rdft": (parameters.fourier, "RDFTParameterizer", {}, (5, 5, 3, 4)),
    "rdft 3": (parameters.fourier, "RDFTParameterizer", {}, (3, 3, 2, 4)),
    "nonnegative": (parameters.nonnegative, "NonnegativeParameterizer", {}, (6, 6)),
    "beta": (parameters.nonnegative, "NonnegativeParameterizer", {"minimum": 1e-6}, (6,)),
}


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_parameters_are_those_of_tfc_to_the_last_bit(name):
    """Compares weights, gradients, and the variables' names, shapes and initial values."""
    make, theirs, settings, shape = PARAMETERS[name]
    found = []
    for function in (
        lambda *args: make(*args, **settings),
        getattr(tfc, theirs)(**settings),
    ):
        made = []

        def getter(name, shape, dtype, initializer, regularizer=None, made=made):
            rng = np.random.RandomState(2)
            value = tf.constant(rng.normal(0, 1, shape), dtype)
            first = initializer(shape, dtype=dtype)
            made.append((name, tuple(shape), first, value))
            return value

        start = tf.initializers.constant(np.random.RandomState(3).normal(0.2, 1, shape))
        weight = function(getter, "v", shape, tf.float32, start)
        ((variable, variable_shape, first, value),) = made
        with tf.Session() as session:
            first = session.run(first)
        found.append([variable, variable_shape, first, *with_gradients(weight, value)])
    for a, b in zip(*found):
        np.testing.assert_array_equal(a, b)


def test_without_tfc_one_line_says_what_needs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_compression", None)
    with pytest.raises(utils.InputError, match="needs tensorflow-compression 1.3"):
        from runtime.quiet_tf import tfc  # noqa: F401
