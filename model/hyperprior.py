"""The mean-scale hyperprior and its variant for bits-back coding: one graph for every use.

    generative model                              inference model
      p(z)        learned, factorised               y = g_a(x)
      p(y|z)      N(mu(z), sigma(z)²), per element  z = h_a(y)                       base
      p(x|y)      ∝ exp(-λ 255² MSE(x, g_s(y)))     q(z|y) = N(z_mean, exp(z_logvar)),
                                                    (z_mean, z_logvar) = h_a(y)      bits-back

      x ──g_a──▶ y ─────────────────────────▶ y_tilde ──g_s──▶ x_tilde
                 └──h_a──▶ z ──▶ z_tilde ──h_s──▶ mu, sigma ──▶ p(y_tilde|z_tilde)

Base: Minnen, Ballé and Toderici 2018 (arXiv 1809.02736). Bits-back: Yang, Bamler and Mandt 2020
(arXiv 2006.04240), section 3.3: z is continuous, its cost is repaid by log q(z|y).

Training, per-image optimisation and evaluation all call `rate_distortion`; they differ only in
what they put in for the latents: noisy (`_tilde`) or transmitted (`_hat`) values. Coding calls the
same `hyper_synthesis` and `synthesis`.
"""

import functools

import numpy as np

from model import bounds, entropy_models, tiling, transforms
from runtime.quiet_tf import tf


class Mbt2018:
    """The base model (Minnen et al. 2018).

    Args:
      transforms: `transforms.Transforms`.
      prior: `entropy_models.Density`, the weights of p(z).
      medians: (C,), of p(z), the centre of the grid on which z is coded; None in training.
      sigma_min: lower bound of sigma, as training and the base codec have it; None: no bound.
      frozen: whether the weights are constants, which no gradient is asked for: then large images
        are computed in tiles, and losses, on a CPU, by faster ways (`cpu_layers.conv_up`).
    """

    name = "mbt2018"
    prior_scope = "entropy_bottleneck/"

    def __init__(self, transforms, prior, medians=None, sigma_min=None, frozen=False):
        self.transforms = transforms
        self.prior = prior
        self.medians = medians
        self.sigma_min = sigma_min
        self.frozen = frozen

    @staticmethod
    def hyper_channels(num_filters):
        """Number of outputs of h_a."""
        return num_filters

    @staticmethod
    def read_grid(reader):
        """What a checkpoint says of the grid of z: the medians, in a dict."""
        return {"medians": reader.get_tensor("entropy_bottleneck/quantiles")[:, 0, 1]}

    def analysis(self, x):
        """Images (N, H, W, 3) in [0, 1] to y (N, ⌈H/16⌉, ⌈W/16⌉, num_filters)."""
        transform = functools.partial(transforms.analysis, layers=self.transforms.analysis)
        return tiling.analysis(transform, x) if self.frozen else transform(x)

    def hyper_analysis(self, y):
        """y to the parameters of z, as a dict of tensors: here z itself."""
        return {"z": transforms.hyper_analysis(y, self.transforms.hyper_analysis)}

    def hyper_synthesis(self, z, y):
        """mu and sigma of p(y|z), both of the shape of `y`."""
        mu, sigma = transforms.hyper_synthesis(z, self.transforms.hyper_synthesis, _size(y))
        if self.sigma_min is not None:
            sigma = bounds.lower_bound(sigma, self.sigma_min)
        return mu, sigma

    def synthesis(self, y, size):
        """y to images (N, H, W, 3), not clipped to [0, 1]; `size` = (H, W)."""
        transform = functools.partial(transforms.synthesis, layers=self.transforms.synthesis)
        return tiling.synthesis(transform, y, size) if self.frozen else transform(y, size=size)

    def p_y(self, y, z):
        """Likelihood of y given z, element by element, at least 1e-9."""
        return entropy_models.bound_likelihood(
            entropy_models.gaussian_mass(y, *self.hyper_synthesis(z, y))
        )

    def p_z(self, z):
        """Likelihood of z, element by element, at least 1e-9."""
        return entropy_models.bound_likelihood(entropy_models.density_mass(z, self.prior))

    def rates(self, num_pixels, y, z):
        """Bits per pixel of each image.

        Args:
          num_pixels: H·W of the images.
          y, z: latents.

        Returns:
          dict of (N,) tensors: `bpp` in all, `y_bpp` and `z_bpp`.
        """
        y_bpp = information(self.p_y(y, z)) / num_pixels
        z_bpp = information(self.p_z(z)) / num_pixels
        return {"bpp": y_bpp + z_bpp, "y_bpp": y_bpp, "z_bpp": z_bpp}

    def rate_distortion(self, x, lmbda, y, **latents):
        """The loss of everything: λ · 255² · MSE(x, g_s(y)) + bpp, averaged over the images.

        Args:
          x: images (N, H, W, 3) in [0, 1].
          lmbda: λ, in bits per pixel and squared 8-bit grey level.
          y, **latents: what `rates` takes.

        Returns:
          loss: scalar.
          metrics: dict of (N,) tensors `rd_loss`, `mse` (on the scale 0 to 255) and what `rates`
            returns, and the images `x_tilde` (N, H, W, 3), not clipped.
        """
        height, width = _size(x)
        metrics = self.rates(height * width, y=y, **latents)
        transform = functools.partial(
            transforms.synthesis, layers=self.transforms.synthesis, winograd=self.frozen
        )
        distortion = tiling.distortion if self.frozen else tiling.distortion_of_whole
        error, x_tilde = distortion(transform, y, x)
        mse = 255.0**2 * error
        rd_loss = lmbda * mse + metrics["bpp"]
        metrics.update(rd_loss=rd_loss, mse=mse, x_tilde=x_tilde)
        return tf.reduce_mean(rd_loss), metrics

    def transmitted(self, x):
        """The latents of images (N, H, W, 3) without optimisation, rounded: what `rates` takes."""
        y = self.analysis(x)
        return self.round_centred(y, **self.hyper_analysis(y))

    def round_centred(self, y, z):
        """z on the grid through the medians, then y on the one through mu(z), which a decoder has.

        This is how the base codec rounds. Returns a dict of y and z.
        """
        z_hat = centred(z, self.medians)
        mu, _ = self.hyper_synthesis(z_hat, y)
        return {"y": centred(y, mu), "z": z_hat}


class Mbt2018BB(Mbt2018):
    """The bits-back model (Yang et al. 2020): z is a continuous sample of q(z|y).

    Args:
      q_sigma_max: upper bound of q's standard deviation, as training has it; None: no bound.
      For the others see `Mbt2018`.
    """

    name = "mbt2018_bb"
    prior_scope = ""

    def __init__(self, *args, q_sigma_max=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.q_sigma_max = q_sigma_max

    @staticmethod
    def hyper_channels(num_filters):
        return 2 * num_filters

    @staticmethod
    def read_grid(reader):
        """Nothing: z is continuous."""
        return {}

    def hyper_analysis(self, y):
        """y to the mean and the log-variance of q(z|y)."""
        outputs = transforms.hyper_analysis(y, self.transforms.hyper_analysis)
        z_mean, z_logvar = tf.split(outputs, 2, axis=-1)
        return {"z_mean": z_mean, "z_logvar": z_logvar}

    def sample(self, z_mean, z_logvar, normal):
        """The latents of `rates` with one reparametrised sample z of q; `normal`: N(0, 1) noise."""
        z = z_mean + self._q_sigma(z_logvar) * normal
        return {"z": z, "z_mean": z_mean, "z_logvar": z_logvar}

    def transmitted(self, x):
        """As `Mbt2018.transmitted`, with the same sample of q(z|y) each time."""
        y = tf.math.round(self.analysis(x))
        q = self.hyper_analysis(y)
        normal = tf.random.stateless_normal(q["z_mean"].shape, seed=(0, 0))
        return {"y": y, **self.sample(normal=normal, **q)}

    def p_z(self, z):
        """Density (not a mass) of z, element by element, at least 1e-9."""
        return entropy_models.bound_likelihood(entropy_models.density_pdf(z, self.prior))

    def rates(self, num_pixels, y, z, z_mean, z_logvar):
        """As `Mbt2018.rates`, less `bpp_back`, the bits that q(z|y) gives back."""
        rates = super().rates(num_pixels, y, z)
        sigma = self._q_sigma(z_logvar)
        nats = (
            0.5 * tf.math.square((z - z_mean) / sigma)
            + tf.math.log(sigma)
            + 0.5 * np.log(2 * np.pi)
        )
        rates["bpp_back"] = tf.reduce_sum(nats, axis=(1, 2, 3)) / np.log(2) / num_pixels
        rates["bpp"] -= rates["bpp_back"]
        return rates

    def _q_sigma(self, z_logvar):
        sigma = tf.math.exp(0.5 * z_logvar)
        if self.q_sigma_max is not None:
            sigma = bounds.upper_bound(sigma, self.q_sigma_max)
        return sigma


def centred(v, centre):
    """The nearest point to v of the grid of spacing 1 through `centre`."""
    return tf.math.floor(v - centre + 0.5) + centre


def information(likelihoods):
    """Bits of each image: -Σ log2 of `likelihoods` (N, h, w, C), as (N,)."""
    return -tf.reduce_sum(tf.math.log(likelihoods), axis=(1, 2, 3)) / np.log(2)


def _size(images):
    """Height and width, which the graph knows statically."""
    return images.shape.as_list()[1:3]


def build(model_class, weights, **kwargs):
    """A model on constants of the present graph, from what `checkpoints.load` returns."""
    constants = [None if v is None else tf.constant(v) for v in tf.nest.flatten(weights)]
    return model_class(**tf.nest.pack_sequence_as(weights, constants), frozen=True, **kwargs)
