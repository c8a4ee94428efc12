"""The graph, compared with TFC's layers, SciPy, finite differences and direct formulas."""

import types

import numpy as np
import plain
import pytest
import scipy.integrate
import scipy.ndimage
import scipy.special
import scipy.stats
import tensorflow_probability as tfp

import utils
from inference import methods, rounding, sga_plus
from model import checkpoints, entropy_models, hyperprior, transforms
from runtime.quiet_tf import tf


def evaluate(*tensors):
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        return session.run(list(tensors))


@pytest.fixture(autouse=True)
def fresh_graph():
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        yield


def random_density(channels=2):
    """Weights of an asymmetric p(z): biases and factors away from zero."""

    rng = np.random.RandomState(3)

    def getter(name, shape, *_):
        centre = -1.0 if "matrix" in name else 0.0
        return tf.constant(rng.normal(centre, 0.5, shape))

    return entropy_models.density(channels, getter)


@pytest.mark.parametrize("model_class", [hyperprior.Mbt2018, hyperprior.Mbt2018BB])
def test_parts_equal_the_layers_of_tfc(model_class, shipped):
    """On an odd-sided image, with the weights of a trained model."""
    bits_back = model_class is hyperprior.Mbt2018BB
    name = "{}-num_filters=8-lmbda=0.02".format(model_class.name)
    run = checkpoints.find_run(str(shipped), name)
    rng = np.random.RandomState(0)
    x = tf.constant(rng.uniform(0, 1, (2, 75, 53, 3)), tf.float32)
    y = tf.constant(rng.normal(0, 2, (2, 5, 4, 8)), tf.float32)
    z = tf.constant(rng.normal(0, 1, (2, 2, 1, 8)), tf.float32)

    parts = plain.Plain(8, bits_back).run(x, y, z)
    with tf.Session() as session:
        tf.train.Saver(tf.global_variables()).restore(session, run.checkpoint)
        expected = session.run(parts)

    model = hyperprior.build(model_class, checkpoints.load(model_class, run))
    mu, sigma = model.hyper_synthesis(z, y)
    h_a = model.hyper_analysis(y)
    ours = {
        "y": model.analysis(x),
        "h_a": tf.concat([h_a[k] for k in (["z_mean", "z_logvar"] if bits_back else ["z"])], -1),
        "mu": mu,
        "sigma": sigma,
        "x_tilde": model.synthesis(y, (75, 53)),
        "p_y_unbounded": entropy_models.gaussian_mass(y, mu, sigma),
        "p_y_bounded": entropy_models.bound_likelihood(
            entropy_models.gaussian_mass(y, mu, tf.maximum(sigma, 0.11))
        ),
    }
    if not bits_back:
        ours["p_z"] = model.p_z(z)
    ours = dict(zip(ours, evaluate(*ours.values())))
    assert set(ours) == set(expected)
    for key, value in ours.items():
        np.testing.assert_allclose(value, expected[key], rtol=2e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("sigma", [0.04, 0.11, 1.0, 37.0])
def test_gaussian_mass_equals_scipy(sigma):
    v = np.linspace(-6, 6, 49) * max(sigma, 0.3)
    mass, bounded = evaluate(
        *[
            f(entropy_models.gaussian_mass(tf.constant(v), 0.25, sigma))
            for f in (tf.identity, entropy_models.bound_likelihood)
        ]
    )
    tail = np.abs(
        v - 0.25
    )  # in the upper tail, differences of the survival function keep precision
    normal = scipy.stats.norm(0, sigma)
    expected = normal.sf(tail - 0.5) - normal.sf(tail + 0.5)
    np.testing.assert_allclose(mass, expected, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(bounded, np.maximum(expected, 1e-9), rtol=1e-9)


def test_density_is_the_derivative_of_its_cdf_and_integrates_to_one():
    weights = random_density()
    grid = np.linspace(-200, 200, 40001)
    z = tf.constant(np.tile(grid[None, None, :, None], (1, 1, 1, 2)))
    pdf, mass = evaluate(
        entropy_models.density_pdf(z, weights), entropy_models.density_mass(z, weights)
    )
    logits, _ = entropy_models.cdf_logits(tf.constant(np.tile(grid, (2, 1, 1))), weights)
    (cdf,) = evaluate(tf.sigmoid(logits))
    for channel in range(2):
        p, c, m = pdf[0, 0, :, channel], cdf[channel, 0], mass[0, 0, :, channel]
        assert scipy.integrate.simps(p, grid) == pytest.approx(c[-1] - c[0], abs=1e-6)
        assert c[-1] - c[0] == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(p[1:-1], (c[2:] - c[:-2]) / (grid[2:] - grid[:-2]), atol=2e-5)
        half = int(round(0.5 / (grid[1] - grid[0])))
        np.testing.assert_allclose(m[half:-half], c[2 * half :] - c[: -2 * half], atol=1e-12)


def test_temperatures():
    t = np.arange(0, 4000, 7)
    sga, danneal = evaluate(
        rounding.temperature(tf.constant(t), 1e-3, 0.5, 1e-8, scale=0.5, t0=700),
        rounding.temperature(tf.constant(t), 4e-3, 0.2, 1e-8),
    )
    np.testing.assert_allclose(sga, np.clip(0.5 * np.exp(-1e-3 * (t - 700)), 1e-8, 0.5), rtol=1e-5)
    np.testing.assert_allclose(danneal, np.clip(np.exp(-4e-3 * t), 1e-8, 0.2), rtol=1e-5)


@pytest.mark.parametrize("tau", [0.5, 0.2, 0.05])
def test_sga_relaxation_equals_a_direct_computation(tau):
    """Directly: two classes, each with a logit and its own Gumbel noise, and a softmax."""
    rng = np.random.RandomState(0)
    v = np.concatenate([rng.normal(0, 3, 500), [-2.0, 0.0, 3.0, 0.5, -0.5]])
    gumbel = rng.gumbel(size=(2,) + v.shape)
    distances = np.clip([v - np.floor(v), np.ceil(v) - v], -1 + 1e-5, 1 - 1e-5)
    logits = (-np.arctanh(distances) / tau + gumbel) / tau
    weights = np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0)
    expected = weights[0] * np.floor(v) + weights[1] * np.ceil(v)

    # The uniform sample that yields this difference of two Gumbel samples.
    uniform = scipy.stats.logistic.cdf(gumbel[0] - gumbel[1])
    v = tf.constant(v)
    weight = rounding.gumbel_softmax_floor_weight(
        rounding.floor_logit(v, tau, 1e-5), tau, tf.constant(uniform)
    )
    (ours,) = evaluate(rounding.between(v, weight))
    np.testing.assert_allclose(ours, expected, atol=1e-8)


def test_sga_sample_is_distributed_as_a_relaxed_one_hot():
    """The reference takes this distribution from TensorFlow Probability."""
    v, tau, n = 1.3, 0.3, 20000
    logits = -np.arctanh([v - 1, 2 - v]) / tau
    theirs = tfp.distributions.RelaxedOneHotCategorical(tau, logits=logits).sample(n, seed=1)[:, 0]
    uniform = tf.random.stateless_uniform([n], seed=[1, 2], dtype=tf.float64)
    logit = rounding.floor_logit(tf.constant(v, tf.float64), tau, 1e-5)
    ours = rounding.gumbel_softmax_floor_weight(logit, tau, uniform)
    assert scipy.stats.ks_2samp(*evaluate(ours, theirs)).pvalue > 1e-3


def test_extreme_uniform_samples_give_finite_gradients():
    v = tf.constant([0.3, 0.3, 2.0, -1.0])
    uniform = tf.constant([0.0, np.nextafter(np.float32(1), np.float32(0)), 0.0, 0.5])
    logit = rounding.floor_logit(v, 1e-8, 1e-5)
    relaxed = rounding.between(v, rounding.gumbel_softmax_floor_weight(logit, 1e-8, uniform))
    relaxed, gradient = evaluate(relaxed, tf.gradients(relaxed, v)[0])
    assert np.isfinite(relaxed).all() and np.isfinite(gradient).all()


def tiny(model_class, n=3, **kwargs):
    """A model with random weights in float64."""
    rng = np.random.RandomState(4)

    def getter(name, shape, *_, **__):
        centre = {"reparam_beta": 1.0, "reparam_gamma": 0.3}.get(name, 0.0)
        return tf.constant(rng.normal(centre, 0.2 if "kernel" in name else 0.05, shape))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "float32", tf.float64)  # the type that the parametrisations require
        layers = transforms.transforms(n, model_class.hyper_channels(n), getter)
        prior = entropy_models.density(n, getter)
    return model_class(layers, prior, **kwargs)


@pytest.mark.parametrize("model_class", [hyperprior.Mbt2018, hyperprior.Mbt2018BB])
def test_gradients_equal_finite_differences(model_class):
    """Gradients of the loss with respect to every latent, away from bounds and rounding."""
    model = tiny(model_class)
    rng = np.random.RandomState(1)
    x = tf.constant(rng.uniform(0, 1, (1, 35, 40, 3)))
    shapes = {"y": (1, 3, 3, 3), "z": (1, 1, 1, 3)}
    normal = 0.0
    if model_class is hyperprior.Mbt2018BB:
        shapes = {"y": (1, 3, 3, 3), "z_mean": (1, 1, 1, 3), "z_logvar": (1, 1, 1, 3)}
        normal = tf.constant(rng.normal(size=(1, 1, 1, 3)))
    feeds = {name: tf.placeholder(tf.float64, shape) for name, shape in shapes.items()}
    latents = dict(feeds)
    if "z" not in latents:
        y = latents.pop("y")
        latents = {"y": y, **model.sample(normal=normal, **latents)}
    loss, _ = model.rate_distortion(x, 0.01, **latents)
    gradients = tf.gradients(loss, list(feeds.values()))
    values = {name: rng.normal(0, 0.7, shape) for name, shape in shapes.items()}
    with tf.Session() as session:

        def at(values):
            return {feeds[name]: value for name, value in values.items()}

        exact = dict(zip(feeds, session.run(gradients, at(values))))
        for name, value in values.items():
            for index in np.ndindex(*value.shape):
                step = np.zeros_like(value)
                step[index] = 1e-5
                up, down = (
                    session.run(loss, at({**values, name: value + sign * step})) for sign in (1, -1)
                )
                assert (up - down) / 2e-5 == pytest.approx(exact[name][index], rel=1e-5, abs=1e-7)


def test_rates_of_bits_back_equal_scipy():
    """-log2 of p(y|z), the pdf of p(z), and q(z|y), summed directly."""
    model = tiny(hyperprior.Mbt2018BB)
    rng = np.random.RandomState(2)
    y, mean, logvar, normal = (
        rng.normal(size=s) for s in [(1, 2, 2, 3), (1, 1, 1, 3), (1, 1, 1, 3), (1, 1, 1, 3)]
    )
    latents = model.sample(tf.constant(mean), tf.constant(logvar), tf.constant(normal))
    rates = model.rates(1000, tf.constant(y), **latents)
    mu, sigma = model.hyper_synthesis(latents["z"], tf.constant(y))
    pdf = entropy_models.density_pdf(latents["z"], model.prior)
    keys = ["bpp", "y_bpp", "z_bpp", "bpp_back"]
    values = evaluate(*[rates[key] for key in keys], latents["z"], mu, sigma, pdf)
    found, (z, mu, sigma, pdf) = dict(zip(keys, values)), values[4:]
    normal_cdf = scipy.stats.norm(mu, sigma).cdf
    y_bpp = -np.log2(normal_cdf(y + 0.5) - normal_cdf(y - 0.5)).sum() / 1000
    back = -scipy.stats.norm(mean, np.exp(logvar / 2)).logpdf(z).sum() / np.log(2) / 1000
    z_bpp = -np.log2(pdf).sum() / 1000
    assert found["y_bpp"][0] == pytest.approx(y_bpp, rel=1e-6)
    assert found["bpp_back"][0] == pytest.approx(back, rel=1e-6)
    assert found["z_bpp"][0] == pytest.approx(z_bpp, rel=1e-6)
    assert found["bpp"][0] == pytest.approx(y_bpp + z_bpp - back, rel=1e-6)


def test_centred_rounding_ties_and_halves():
    """Around a centre a tie goes up; to integers it goes to the even one, as in NumPy."""
    v = tf.constant([0.5, 1.49, -0.5, 2.5, 0.75, 1.75, -0.25])
    (centred,) = evaluate(hyperprior.centred(v, 0.25))
    np.testing.assert_allclose(centred, [0.25, 1.25, -0.75, 2.25, 1.25, 2.25, 0.25])
    ties = tf.constant([-1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    args = types.SimpleNamespace(centred=False)
    for script in ("sga", "ste", "danneal"):
        method = object.__new__(methods.find_method(script))
        method.args = args
        for integers in evaluate(*method.rounded(y=ties, z=ties).values()):
            np.testing.assert_array_equal(integers, [-2, 0, 0, 2, 2, 4])
    (straight,) = evaluate(rounding.straight_through(ties))
    np.testing.assert_array_equal(straight, [-2, 0, 0, 2, 2, 4])


@pytest.mark.parametrize("name", rounding.PROBABILITIES)
def test_probabilities_of_rounding(name):
    """They equal their formulas in SciPy; except for atanh, those of two neighbours sum to 1."""
    distance = np.linspace(0.01, 0.99, 50)
    args = types.SimpleNamespace(ssl_a=1.7, atanh_eps=1e-5)
    expected = {
        "atanh": np.exp(-np.arctanh(distance)),
        "linear": 1 - distance,
        "cosine": np.cos(np.pi / 2 * distance) ** 2,
        "ssl": scipy.special.expit(-1.7 * scipy.special.logit(distance)),
    }[name]
    (found,) = evaluate(tf.exp(rounding.log_probability(name, tf.constant(distance), args)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    if name != "atanh":
        np.testing.assert_allclose(found + found[::-1], 1, rtol=1e-6)
    outside = tf.constant([0.0, 1.0, 1.4])
    ends = rounding.log_probability(name, outside, args)
    assert np.isfinite(evaluate(ends, *tf.gradients(ends, outside))).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_sga_plus_equals_a_direct_computation(classes):
    """Directly in NumPy: candidates, distances, noise, softmax. Cold samples are candidates."""
    rng = np.random.RandomState(0)
    v = rng.normal(0, 3, (1, 4, 5, 2)).astype(np.float32)
    args = types.SimpleNamespace(
        classes=classes, probability="linear", three_r=0.6, three_n=2.0, ssl_a=1.0
    )
    uniform = rng.uniform(0.01, 0.99, (*v.shape, classes)).astype(np.float32)
    noise = types.SimpleNamespace(uniform=lambda like: tf.constant(uniform))
    first = np.floor(v) if classes == 2 else np.round(v) - 1
    candidates = first[..., None] + np.arange(classes)
    distance = np.abs(v[..., None] - candidates)
    log_p = np.log1p(-distance) if classes == 2 else 2 * np.log1p(-0.6 * distance)
    for tau in (0.4, 1e-3):
        weights = scipy.special.softmax((log_p / tau - np.log(-np.log(uniform))) / tau, axis=-1)
        (found,) = evaluate(sga_plus.relax(tf.constant(v), tau, noise, args))
        np.testing.assert_allclose(found, (weights * candidates).sum(-1), atol=2e-4)
    assert np.mean(np.abs(found - np.round(v)) < 1e-3) > 0.9


def test_sga_plus_with_atanh_and_two_classes_is_sga():
    """SGA is a special case of the general form, with the same mean over many samples."""
    v, tau, size = 0.3, 0.5, 200000
    args = types.SimpleNamespace(
        classes=2, probability="atanh", atanh_eps=1e-5, three_r=1.0, three_n=1.0
    )
    rng = np.random.RandomState(1)
    noise = types.SimpleNamespace(uniform=lambda like: tf.constant(rng.uniform(size=like.shape)))
    values = tf.constant(np.full(size, v))
    weight = rounding.gumbel_softmax_floor_weight(
        rounding.floor_logit(values, tau, 1e-5), tau, noise.uniform(values)
    )
    one, other = evaluate(
        rounding.between(values, weight), sga_plus.relax(values, tau, noise, args)
    )
    for power in (1, 2, 3):
        assert np.mean(one**power) == pytest.approx(np.mean(other**power), abs=5e-3)


def test_fitted_schedules_and_decays():
    """500 iterations end at the temperature of 2000; the learning rate follows half a cosine."""
    args = types.SimpleNamespace(fit_schedule=True, sga_its=500, lr=0.2, lr_final=0.1)
    for t in (0, 100, 175, 400, 500):
        (time,) = evaluate(sga_plus.schedule_time(tf.constant(t), args))
        assert time == 4 * t
        (rate,) = evaluate(sga_plus.learning_rate(tf.constant(t), args))
        assert rate == pytest.approx(0.11 + 0.09 * np.cos(np.pi * t / 500))
    plain_args = types.SimpleNamespace(fit_schedule=False, sga_its=500, lr=0.2, lr_final=1.0)
    assert evaluate(sga_plus.schedule_time(tf.constant(7), plain_args)) == [7]
    assert sga_plus.learning_rate(7, plain_args) == 0.2


@pytest.mark.parametrize("size, noise", [((192, 256), 8), ((161, 205), 40), ((177, 161), 300)])
def test_ms_ssim_equals_that_of_tensorflow(size, noise):
    random = np.random.RandomState(1)
    smooth = scipy.ndimage.gaussian_filter(random.normal(size=(*size, 3)), (3, 3, 0))
    image = np.clip(128 + 400 * smooth, 0, 255).astype(np.uint8)
    decoded = np.clip(image + random.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        pair = [tf.constant(v[None], tf.float32) for v in (image, decoded)]
        (expected,) = session.run(tf.image.ssim_multiscale(*pair, 255))
    result = utils.ms_ssim(image, decoded)
    assert 0 <= expected < 0.99
    np.testing.assert_allclose(result["msssim"], expected, rtol=0, atol=1e-5)
    assert utils.ms_ssim(image, image)["msssim_db"] == np.inf
