"""q(z|y) for bits-back coding, which encoder and decoder have to compute bit for bit alike.

    q(z|y) = N(z_mean, exp(z_logvar)),   z_mean, z_logvar from h_a(y), then optionally optimised by
    Adam on   E_q[ -log2 p(y|z) - log2 p(z) + log2 q(z|y) ]   per pixel, one sample per step

(Yang et al. 2020, section 3.3). Encoder and decoder run this same loop: convolutions on integers
(`integer_networks.py`), everything else in float64 with the operations of `arithmetic.py` and
explicit gradients. The noise depends on the seed, y and the step: NumPy's Philox generator draws
integers, which select one of 2^16 equally probable values. Sums of floats have only a few terms, in
a fixed order, except in the figures that are only shown.
"""

import collections
import hashlib
import math

import numpy as np

from coding import arithmetic
from coding.integer_networks import UNIT
from runtime.errors import InputError

RECORD_EVERY = 100
LARGEST = 2.0**16  # bound on |mean| + |log-variance|, beyond which the fit has diverged
_BOUND = 1e-9  # lower bound on likelihoods, as in `entropy_models.bound_likelihood`
_INVERSE_SQRT_2PI = 0.3989422804014327
_BLOCK = 1 << 13  # elements processed together, so that they stay in the cache
_NOISE_BITS = 16


def fit(decoder, y, num_pixels, settings, seed, step):
    """Computes the mean and log-variance of q(z|y).

    Args:
      decoder: `integer_model.Decoder` of a bits-back model.
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
    noise = _Noise(seed, y)
    optimiser = _Adam(settings, 2)
    bad = None
    for t in range(settings.its):
        shown = t % RECORD_EVERY == 0 or t == settings.its - 1
        normal = noise.normal(t, mean.shape)
        deviation = arithmetic.exp(0.5 * logvar) * normal
        loss, gradient = _free_energy(decoder, y, mean + deviation, shown)
        if shown:
            if not np.all(np.abs(mean) + np.abs(logvar) < LARGEST):  # NaN included
                break
            loss -= 0.5 * np.sum(normal * normal + logvar + np.log(2 * np.pi))
            loss *= scale
            record["its"].append(t)
            record["rd_loss"].append(loss)
        # The final ½ is the gradient of the entropy of q.
        gradients = (gradient, gradient * deviation * 0.5 - 0.5)
        mean, logvar = optimiser.update((mean, logvar), [scale * g for g in gradients])
        if bad is None and not np.all(np.abs(mean) + np.abs(logvar) < LARGEST):
            bad = t
        step(t + 1, loss)
    if not np.all(np.abs(mean) + np.abs(logvar) < LARGEST):  # NaN included
        raise InputError(
            "q(z|y) diverges: its mean or log-variance is NaN or beyond {:g} after the update of "
            "iteration {}; try a lower --lr, or --r_lr if the method has it".format(LARGEST, bad)
        )
    return mean, logvar, dict(record)


def _free_energy(decoder, y, z, with_value):
    """-log p(y|z) - log p(z) in nats (None unless `with_value`), and its gradient in z.

    The gradient ignores the rounding of z to the grid of the networks (straight-through).
    """
    grid = np.floor(z / UNIT + 0.5)
    mu, log_sigma, activations = decoder.hyper_synthesis.forward(grid, y.shape[:2])
    y_nats, mu_gradient, log_sigma_gradient = _gaussian_nats(
        y, mu * UNIT, log_sigma * UNIT, with_value
    )
    gradient = decoder.hyper_synthesis.backward(mu_gradient, log_sigma_gradient, activations)
    z_nats, z_gradient = _prior_nats(decoder.prior, z, with_value)
    return y_nats + z_nats if with_value else None, gradient + z_gradient


def _gaussian_nats(y, mu, log_sigma, with_value):
    """Σ -log p(y|z) (0 unless `with_value`) and its gradients in mu and log sigma."""
    mu_gradient, log_sigma_gradient = np.empty_like(y), np.empty_like(y)
    arrays = [a.reshape(-1) for a in (y, mu, log_sigma, mu_gradient, log_sigma_gradient)]
    nats = 0.0
    for start in range(0, y.size, _BLOCK):
        y_, mu_, log_sigma_, *out = (array[start : start + _BLOCK] for array in arrays)
        difference = y_ - mu_
        distance = np.abs(difference)
        inverse = arithmetic.exp(-log_sigma_)
        near, far = (distance - 0.5) * inverse, (distance + 0.5) * inverse
        near_tail, near_bell = arithmetic.normal_tail(np.abs(near))
        far_tail, far_bell = arithmetic.normal_tail(far)
        # The difference keeps its precision if both ends are in one tail.
        mass = np.where(near < 0, 1 - near_tail, near_tail) - far_tail
        bounded = np.maximum(mass, _BOUND)
        slope = _INVERSE_SQRT_2PI / bounded
        np.multiply((far_bell - near_bell) * inverse * slope, np.sign(difference), out=out[0])
        np.multiply(near * near_bell - far * far_bell, -slope, out=out[1])
        if with_value:
            nats -= np.sum(np.log(bounded))
    return nats, mu_gradient, log_sigma_gradient


def _prior_nats(prior, z, with_value):
    """Σ -log p(z) (0 unless `with_value`) and its gradient in z."""
    logits, slope, bend = prior.logits(z)
    right = arithmetic.sigmoid(logits)
    density = right * (1 - right) * slope
    # d/dz log p = p'/p; where p is bounded, the denominator is the bound.
    derivative = right * (1 - right) * (bend + (1 - 2 * right) * slope * slope)
    bounded = np.maximum(density, _BOUND)
    return -np.sum(np.log(bounded)) if with_value else 0.0, -derivative / bounded


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


class _Adam:
    """Adam as TensorFlow 1 has it: epsilon is added to the root before its bias is corrected."""

    def __init__(self, settings, number):
        self._settings = settings
        self._means, self._squares = [0.0] * number, [0.0] * number
        self._powers = 1.0, 1.0

    def update(self, values, gradients):
        """The values after one step."""
        _, lr, beta1, beta2, epsilon = self._settings
        self._powers = self._powers[0] * beta1, self._powers[1] * beta2
        rate = lr * math.sqrt(1 - self._powers[1]) / (1 - self._powers[0])
        updated = []
        for i, (value, gradient) in enumerate(zip(values, gradients)):
            self._means[i] = self._means[i] * beta1 + gradient * (1 - beta1)
            self._squares[i] = self._squares[i] * beta2 + (gradient * gradient) * (1 - beta2)
            updated.append(value - rate * self._means[i] / (np.sqrt(self._squares[i]) + epsilon))
        return updated
