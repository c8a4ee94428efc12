"""q(z|y) for bits-back coding, which encoder and decoder have to compute bit for bit alike.

    q(z|y) = N(z_mean, exp(z_logvar)),   z_mean, z_logvar from h_a(y), then optionally optimised by
    Adam on   E_q[ -log2 p(y|z) - log2 p(z) + log2 q(z|y) ]   per pixel, one sample per step

(Yang et al. 2020, section 3.3). Encoder and decoder run this same loop: convolutions on integers
(`integer_networks.py`), everything else in float64 with the operations of `arithmetic.py` and
explicit gradients. The noise depends on the seed, y and the step: NumPy's Philox generator draws
integers, which select one of 2^16 equally probable values. Sums of floats have only a few terms, in
a fixed order, except in the figures that are only shown.

`Iterations` defines an iteration in NumPy. If numba is installed, `compiled.Iterations` takes its
place: the same results, sooner. The functions of single elements (`sample`, `gaussian`, `prior`,
`update`) serve both, so they take arrays, and also scalars where numba compiles them.
"""

import collections
import hashlib
import math

import numpy as np

from coding import arithmetic
from coding.integer_networks import UNIT, prior_logits
from runtime.errors import InputError

RECORD_EVERY = 100
LARGEST = 2.0**16  # bound on |mean| + |log-variance|, beyond which the fit has diverged
_BOUND = 1e-9  # lower bound on likelihoods, as in `entropy_models.bound_likelihood`
_INVERSE_SQRT_2PI = 0.3989422804014327
_BLOCK = 1 << 13  # elements processed together, so that they stay in the cache
_NOISE_BITS = 16
# Iterations × elements of y from which loading the compiled code, about a second, pays.
_WORTH_COMPILING = 1 << 22


def fit(decoder, y, num_pixels, settings, seed, step):
    """Computes the mean and log-variance of q(z|y).

    Args:
      decoder: `decoding.Decoder` of a bits-back model.
      y: integers as float64, (h, w, C).
      num_pixels: number of pixels of the image, by which the loss is divided.
      settings: `container.Settings`.
      seed: seed of the noise.
      step: `step(n, loss)` is called when n iterations are done; every `RECORD_EVERY` iterations
        and at the last, `loss` is that iteration's, in bits per pixel (one sample), otherwise None.

    Returns:
      z_mean, z_logvar: float64 (h', w', C).
      record: dict of lists, `its` and `rd_loss`, the iterations and losses passed to `step`.

    Raises:
      InputError: Adam diverges.
    """
    with np.errstate(all="ignore"):  # forged files may lead to values out of range
        return _fit(decoder, y, num_pixels, settings, seed, step)


def _fit(decoder, y, num_pixels, settings, seed, step):
    mean, logvar = decoder.hyper_analysis.forward(y)
    record = collections.defaultdict(list)
    if not settings.its:
        return mean, logvar, record
    scale = arithmetic.LOG2_E / num_pixels
    noise, rates = _Noise(seed, y), adam_rates(settings)
    iterations = _iterations(settings.its * y.size)(decoder, y, mean, logvar, scale, settings)
    bad = None
    for t in range(settings.its):
        normal, loss = noise.normal(t, mean.shape), None
        if t % RECORD_EVERY == 0 or t == settings.its - 1:
            if not iterations.within(LARGEST):
                break
            loss = scale * free_energy(decoder, y, iterations.mean, iterations.logvar, normal)
            record["its"].append(t)
            record["rd_loss"].append(loss)
        iterations.run(normal, next(rates))
        if bad is None and not iterations.within(LARGEST):
            bad = t
        step(t + 1, loss)
    if not iterations.within(LARGEST):
        raise InputError(
            "q(z|y) diverges: its mean or log-variance is NaN or beyond {:g} after the update of "
            "iteration {}; try a lower --lr, or --r_lr if the method has it".format(LARGEST, bad)
        )
    return iterations.mean, iterations.logvar, dict(record)


def _iterations(work):
    """The class that runs iterations, which process `work` elements of y altogether."""
    if work < _WORTH_COMPILING:
        return Iterations
    try:
        from coding import compiled
    except ImportError:  # numba is not installed
        return Iterations
    return compiled.Iterations


class Iterations:
    """Adam on the mean and log-variance of q(z|y).

    Args:
      decoder: `decoding.Decoder` of a bits-back model.
      y: integers as float64, (h, w, C).
      mean, logvar: initial values, float64 (h', w', C).
      scale: factor of the loss, which is in nats without it.
      settings: `container.Settings`.

    Attributes:
      mean, logvar: the current values.
    """

    def __init__(self, decoder, y, mean, logvar, scale, settings):
        self._decoder, self._y, self._scale = decoder, y, scale
        self._adam = settings[2:]
        self._moments = 2 * [(0.0, 0.0)]
        self.mean, self.logvar = mean, logvar

    def within(self, largest):
        """Whether |mean| + |log-variance| is below `largest` everywhere; NaN is not."""
        return bool(np.all(np.abs(self.mean) + np.abs(self.logvar) < largest))

    def run(self, normal, rate):
        """Runs an iteration with N(0, 1) noise `normal` (h', w', C), and `rate` of `adam_rates`."""
        z, deviation, grid = sample(self.mean, self.logvar, normal)
        gradient = y_gradient(self._decoder.hyper_synthesis, self._y, grid)
        gradient = gradient + prior(z, self._decoder.prior.weights)[0]
        steps = [
            update(value, self._scale * g, *moments, rate, *self._adam)
            for value, g, moments in zip(
                (self.mean, self.logvar), q_gradients(gradient, deviation), self._moments
            )
        ]
        (self.mean, *first), (self.logvar, *second) = steps
        self._moments = [first, second]


def y_gradient(hyper_synthesis, y, grid):
    """The gradient of -log p(y|z) in z, at z = `grid` · 2^-12.

    It passes straight through the rounding of z to this grid.
    """
    mu, log_sigma, activations = hyper_synthesis.forward(grid, y.shape[:2])
    mu_gradient, log_sigma_gradient, _ = _gaussians(y, mu, log_sigma)
    return hyper_synthesis.backward(mu_gradient, log_sigma_gradient, activations)


def free_energy(decoder, y, mean, logvar, normal):
    """-log p(y|z) - log p(z) + log q(z|y) in nats, for the sample z that `normal` selects.

    It is only shown, so that its sums may have any order.
    """
    z, _, grid = sample(mean, logvar, normal)
    mu, log_sigma, _ = decoder.hyper_synthesis.forward(grid, y.shape[:2])
    _, _, mass = _gaussians(y, mu, log_sigma)
    _, density = prior(z, decoder.prior.weights)
    q = 0.5 * np.sum(normal * normal + logvar + np.log(2 * np.pi))
    return -np.sum(np.log(mass)) - np.sum(np.log(density)) - q


def _gaussians(y, mu, log_sigma):
    """`gaussian` of whole arrays; mu and log sigma in units of 2^-12."""
    results = np.empty((3, *y.shape))
    arrays = [a.reshape(-1) for a in (y, mu, log_sigma, *results)]
    for start in range(0, y.size, _BLOCK):
        y_, mu_, log_sigma_, *out = (array[start : start + _BLOCK] for array in arrays)
        for array, values in zip(out, gaussian(y_, mu_ * UNIT, log_sigma_ * UNIT)):
            array[:] = values
    return results


# --- Functions of single elements ------------------------------------------------------------


def sample(mean, logvar, normal):
    """z of N(mean, exp(logvar)), its deviation from the mean, and z in units of 2^-12, rounded."""
    deviation = arithmetic.exp(0.5 * logvar) * normal
    z = mean + deviation
    return z, deviation, np.floor(z / UNIT + 0.5)


def gaussian(y, mu, log_sigma):
    """The gradients of -log p(y|z) in mu and log sigma, and p(y|z), at least `_BOUND`."""
    difference = y - mu
    distance = np.abs(difference)
    inverse = arithmetic.exp(-log_sigma)
    near, far = (distance - 0.5) * inverse, (distance + 0.5) * inverse
    near_tail, near_bell = arithmetic.normal_tail(np.abs(near))
    far_tail, far_bell = arithmetic.normal_tail(far)
    # The difference keeps its precision if both ends are in one tail; `abs` selects that tail or 1
    # minus it.
    mass = np.abs((near < 0) - near_tail) - far_tail
    mass = np.maximum(mass, _BOUND)
    slope = _INVERSE_SQRT_2PI / mass
    mu_gradient = (far_bell - near_bell) * inverse * slope * np.copysign(1.0, difference)
    return mu_gradient, (near * near_bell - far * far_bell) * -slope, mass


def prior(z, weights):
    """The gradient of -log p(z) in z, and p(z), at least `_BOUND`; see `prior_logits`."""
    logits, slope, bend = prior_logits(z, weights)
    right = arithmetic.sigmoid(logits)
    density = right * (1 - right) * slope
    # d/dz log p = p'/p; where p is bounded, the denominator is the bound.
    derivative = right * (1 - right) * (bend + (1 - 2 * right) * slope * slope)
    density = np.maximum(density, _BOUND)
    return -derivative / density, density


def q_gradients(gradient, deviation):
    """The gradients in the mean and the log-variance of q, from the gradient in z.

    The final ½ is the gradient of the entropy of q.
    """
    return gradient, gradient * deviation * 0.5 - 0.5


def update(value, gradient, mean, square, rate, beta1, beta2, epsilon):
    """A step of Adam as TensorFlow 1 has it: epsilon is added before biases are corrected.

    Args:
      value, gradient: of a variable.
      mean, square: Adam's means of the gradients and of their squares.
      rate: see `adam_rates`.

    Returns:
      the new value, mean and square.
    """
    mean = mean * beta1 + gradient * (1 - beta1)
    square = square * beta2 + (gradient * gradient) * (1 - beta2)
    return value - rate * mean / (np.sqrt(square) + epsilon), mean, square


def adam_rates(settings):
    """Yields Adam's learning rate for each step, with both biases corrected."""
    power1 = power2 = 1.0
    while True:
        power1, power2 = power1 * settings.adam_beta1, power2 * settings.adam_beta2
        yield settings.lr * math.sqrt(1 - power2) / (1 - power1)


class _Noise:
    """Standard normal numbers that depend only on the seed, y and the step."""

    def __init__(self, seed, y):
        content = "{} {} ".format(seed, y.shape).encode() + y.astype("<i8").tobytes()
        self._key = int.from_bytes(hashlib.sha256(content).digest()[:16], "little")
        self._quantiles = arithmetic.normal_quantiles(_NOISE_BITS)

    def normal(self, t, shape):
        generator = np.random.Philox(key=self._key, counter=t << 128)
        raw = generator.random_raw(-(-int(np.prod(shape)) * _NOISE_BITS // 64))
        index = raw.astype("<u8").view("<u2")[: int(np.prod(shape))]
        return self._quantiles[index].reshape(shape)
