"""The mean-scale hyperprior and its variant for bits-back coding: one graph for every use.

    generative model                              inference model
      p(z)        learned, factorised               y = g_a(x)
      p(y|z)      N(mu(z), sigma(z)²), per element  z = h_a(y)                       base
      p(x|y)      ∝ exp(-λ 255² MSE(x, g_s(y)))     q(z|y) = N(z_mean, exp(z_logvar)),
                                                    (z_mean, z_logvar) = h_a(y)      bits-back

      x ──g_a──▶ y ─────────────────────────▶ y_tilde ──g_s──▶ x_tilde
                 └──h_a──▶ z ──▶ z_tilde ──h_s──▶ mu, sigma ──▶ p(y_tilde|z_tilde)

Base: Minnen, Ballé and Toderici 2018 (arXiv 1809.02736). Bits-back: Yang, Bamler and Mandt 2020
(arXiv 2006.04240), section 3.3: z is continuous, and -log q(z|y) is subtracted from its cost.

Training, per-image optimisation and evaluation all call `rate_distortion`; they differ only in
the latents that they pass: noisy (`_tilde`) or transmitted (`_hat`) values. Coding calls the same
`hyper_synthesis` and `synthesis`.
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
      sigma_min: lower bound on sigma, as used in training and the base codec; None: no bound.
      frozen: whether the weights never change and need no gradients. If so, large images are
        computed in tiles, and losses on a CPU use faster algorithms (`cpu_layers.conv_up`).
      step: D, the spacing of y's grid. All y, mu and sigma that methods of this class take and
        return are in units of D, so that y is rounded to integers and its likelihood is the mass of
        an interval of width D (Gao et al. 2022, arXiv 2209.09244, section 3.2).
    """

    name = "mbt2018"
    prior_scope = "entropy_bottleneck/"

    def __init__(self, transforms, prior, medians=None, sigma_min=None, frozen=False, step=1.0):
        self.transforms = transforms
        self.prior = prior
        self.medians = medians
        self.sigma_min = sigma_min
        self.frozen = frozen
        self.step = step

    @staticmethod
    def hyper_channels(num_filters):
        """Number of outputs of h_a."""
        return num_filters

    @staticmethod
    def read_grid(reader):
        """Reads the grid of z from a checkpoint: a dict of the medians."""
        return {"medians": reader.get_tensor("entropy_bottleneck/quantiles")[:, 0, 1]}

    def analysis(self, x):
        """Maps images (N, H, W, 3) in [0, 1] to y (N, ⌈H/16⌉, ⌈W/16⌉, num_filters)."""
        transform = functools.partial(transforms.analysis, layers=self.transforms.analysis)
        return self._in_steps(tiling.analysis(transform, x) if self.frozen else transform(x))

    def hyper_analysis(self, y):
        """Maps y to the parameters of z, a dict of tensors; in this model, z itself."""
        return {"z": transforms.hyper_analysis(self._of_steps(y), self.transforms.hyper_analysis)}

    def hyper_synthesis(self, z, y):
        """mu and sigma of p(y|z), both with the shape of `y`."""
        mu, sigma = transforms.hyper_synthesis(z, self.transforms.hyper_synthesis, _size(y))
        if self.sigma_min is not None:
            sigma = bounds.lower_bound(sigma, self.sigma_min)
        return self._in_steps(mu), self._in_steps(sigma)

    def synthesis(self, y, size):
        """Maps y to images (N, H, W, 3), not clipped to [0, 1]; `size` = (H, W)."""
        transform = functools.partial(transforms.synthesis, layers=self.transforms.synthesis)
        y = self._of_steps(y)
        return tiling.synthesis(transform, y, size) if self.frozen else transform(y, size=size)

    def p_y(self, y, z):
        """Elementwise likelihood of y given z, at least 1e-9."""
        return entropy_models.bound_likelihood(
            entropy_models.gaussian_mass(y, *self.hyper_synthesis(z, y))
        )

    def p_z(self, z):
        """Elementwise likelihood of z, at least 1e-9."""
        return entropy_models.bound_likelihood(entropy_models.density_mass(z, self.prior))

    def rates(self, num_pixels, y, z):
        """Bits per pixel of each image.

        Args:
          num_pixels: H·W of the images.
          y, z: latents.

        Returns:
          dict of (N,) tensors: `bpp`, the total, `y_bpp` and `z_bpp`.
        """
        y_bpp = information(self.p_y(y, z)) / num_pixels
        z_bpp = information(self.p_z(z)) / num_pixels
        return {"bpp": y_bpp + z_bpp, "y_bpp": y_bpp, "z_bpp": z_bpp}

    def rate_distortion(self, x, lmbda, y, weights=None, **latents):
        """The loss that every use shares: λ · 255² · MSE(x, g_s(y)) + bpp, averaged over images.

        Args:
          x: images (N, H, W, 3) in [0, 1].
          lmbda: λ, in bits per pixel per squared 8-bit grey level; a number or a tensor (N,).
          y, **latents: the latents, as for `rates`.
          weights: (1, H, W, 3), by which squared errors are multiplied before they are averaged;
            None: 1 everywhere.

        Returns:
          loss: scalar.
          metrics: dict of (N,) tensors `rd_loss`, `mse` (weighted, on a 0 to 255 scale) and those
            of `rates`, and the images `x_tilde` (N, H, W, 3), not clipped.
        """
        height, width = _size(x)
        metrics = self.rates(height * width, y=y, **latents)
        transform = functools.partial(
            transforms.synthesis, layers=self.transforms.synthesis, winograd=self.frozen
        )
        distortion = tiling.distortion if self.frozen else tiling.distortion_of_whole
        error, x_tilde = distortion(transform, self._of_steps(y), x, weights)
        mse = 255.0**2 * error
        rd_loss = lmbda * mse + metrics["bpp"]
        metrics.update(rd_loss=rd_loss, mse=mse, x_tilde=x_tilde)
        return tf.reduce_mean(rd_loss), metrics

    def transmitted(self, x):
        """The rounded latents of images (N, H, W, 3), without optimisation, as for `rates`."""
        y = self.analysis(x)
        return self.round_centred(y, **self.hyper_analysis(y))

    def round_centred(self, y, z):
        """Rounds z to the grid through the medians, then y to the grid through mu of that z.

        This is how the base codec rounds; a decoder knows both grids. Returns a dict of y and z.
        """
        z_hat = centred(z, self.medians)
        mu, _ = self.hyper_synthesis(z_hat, y)
        return {"y": centred(y, mu), "z": z_hat}

    def _in_steps(self, v):
        return v if self.step == 1 else v / self.step

    def _of_steps(self, v):
        return v if self.step == 1 else v * self.step


class Mbt2018BB(Mbt2018):
    """The bits-back model (Yang et al. 2020): z is a continuous sample of q(z|y).

    Args:
      q_sigma_max: upper bound on q's standard deviation, used in training; None: no bound.
      For the other arguments see `Mbt2018`.
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
        """Returns an empty dict, because z is continuous."""
        return {}

    def hyper_analysis(self, y):
        """Maps y to the mean and log-variance of q(z|y), a dict of z_mean and z_logvar."""
        outputs = transforms.hyper_analysis(self._of_steps(y), self.transforms.hyper_analysis)
        z_mean, z_logvar = tf.split(outputs, 2, axis=-1)
        return {"z_mean": z_mean, "z_logvar": z_logvar}

    def sample(self, z_mean, z_logvar, normal):
        """z, a reparametrised sample of q from N(0, 1) noise `normal`, and q's parameters."""
        z = z_mean + self._q_sigma(z_logvar) * normal
        return {"z": z, "z_mean": z_mean, "z_logvar": z_logvar}

    def transmitted(self, x):
        """Like `Mbt2018.transmitted`, with the same sample of q(z|y) each time."""
        y = tf.math.round(self.analysis(x))
        q = self.hyper_analysis(y)
        normal = tf.random.stateless_normal(q["z_mean"].shape, seed=(0, 0))
        return {"y": y, **self.sample(normal=normal, **q)}

    def p_z(self, z):
        """Elementwise density (not mass) of z, at least 1e-9."""
        return entropy_models.bound_likelihood(entropy_models.density_pdf(z, self.prior))

    def rates(self, num_pixels, y, z, z_mean, z_logvar):
        """Like `Mbt2018.rates`, but `bpp` is net of `bpp_back`, the bits that q(z|y) gives back."""
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
    """The point closest to v on the grid of spacing 1 through `centre`."""
    return tf.math.floor(v - centre + 0.5) + centre


def information(likelihoods):
    """The bits of each image, -Σ log2 `likelihoods` over (N, h, w, C), as (N,)."""
    return -tf.reduce_sum(tf.math.log(likelihoods), axis=(1, 2, 3)) / np.log(2)


def _size(images):
    """The static height and width of images or latents (N, H, W, C)."""
    return images.shape.as_list()[1:3]


def build(model_class, weights, as_tensor=tf.constant, **kwargs):
    """Builds a model in the current graph.

    Args:
      model_class: `Mbt2018` or `Mbt2018BB`.
      weights: as returned by `checkpoints.load`.
      as_tensor: function that makes an array of weights a tensor: `tf.constant`, or `stored.store`
        for a session that runs several sets of fetches.
      kwargs: further arguments of `model_class`.
    """
    tensors = [None if v is None else as_tensor(v) for v in tf.nest.flatten(weights)]
    return model_class(**tf.nest.pack_sequence_as(weights, tensors), frozen=True, **kwargs)
