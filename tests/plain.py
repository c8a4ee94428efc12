"""The models in the plain manner: TFC 1.3's layers as they come. An oracle, independent of ours."""

import numpy as np

from quiet_tf import tf, tfc

SCALES = np.exp(np.linspace(np.log(0.11), np.log(256), 64))


def _stack(name, layers):
    """A Keras layer of this scope that applies `layers` in turn."""

    class Stack(tf.keras.layers.Layer):
        def __init__(self):
            super().__init__(name=name)
            self.stack = layers

        def call(self, x):
            for layer in self.stack:
                x = layer(x)
            return x

    return Stack()


def _conv(index, filters, support, up=1, down=1, **kwargs):
    return tfc.SignalConv2D(
        filters,
        (support, support),
        name="layer_{}".format(index),
        corr=up == 1 and kwargs.pop("corr", True),
        strides_up=up,
        strides_down=down,
        padding="same_zeros",
        **{"use_bias": True, **kwargs},
    )


class Plain:
    """`bits_back`: z has a mean and a log-variance, and no `tfc.EntropyBottleneck`."""

    def __init__(self, n, bits_back=False):
        def gdn(i, inverse=False):
            name = "{}gdn_{}".format("i" if inverse else "", i)
            return tfc.GDN(name=name, inverse=inverse)

        self.analysis = _stack(
            "analysis_transform",
            [_conv(i, n, 5, down=2, activation=gdn(i)) for i in range(3)]
            + [_conv(3, n, 5, down=2)],
        )
        self.synthesis = _stack(
            "synthesis_transform",
            [_conv(i, n, 5, up=2, activation=gdn(i, True)) for i in range(3)]
            + [_conv(3, 3, 5, up=2)],
        )
        self.hyper_analysis = _stack(
            "hyper_analysis_transform",
            [
                _conv(0, n, 3, activation=tf.nn.relu),
                _conv(1, n, 5, down=2, activation=tf.nn.relu),
                _conv(2, 2 * n if bits_back else n, 5, down=2, use_bias=False),
            ],
        )
        plain = {"kernel_parameterizer": None}
        self.hyper_synthesis = _stack(
            "mb_t2018hyper_synthesis_transform",
            [
                _conv(0, n, 5, up=2, activation=tf.nn.relu, **plain),
                _conv(1, int(1.5 * n), 5, up=2, activation=tf.nn.relu, **plain),
                _conv(2, 2 * n, 3, corr=False, **plain),
            ],
        )
        self.bottleneck = None if bits_back else tfc.EntropyBottleneck()

    def run(self, x, y, z):
        """Tensors of all parts: y of x, h_a and g_s of `y`, mu, sigma of `z`, likelihoods."""
        height, width = x.shape.as_list()[1:3]
        mu, log_sigma = tf.split(self.hyper_synthesis(z)[:, : y.shape[1], : y.shape[2]], 2, axis=-1)
        sigma = tf.exp(log_sigma)
        conditional = tfc.GaussianConditional(sigma, SCALES, mean=mu)
        # Built by hand in the "free" layer below: its sigma has no lower bound.
        unbounded = tfc.GaussianConditional(sigma, SCALES, mean=mu, dtype=tf.float32)
        parts = {
            "y": self.analysis(x),
            "h_a": self.hyper_analysis(y),
            "mu": mu,
            "sigma": sigma,
            "x_tilde": self.synthesis(y)[:, :height, :width],
            "p_y_unbounded": unbounded._likelihood(y),
        }
        # Called last: building the layer bounds its sigma.
        conditional(y, training=False)
        parts["p_y_bounded"] = tf.maximum(conditional._likelihood(y), 1e-9)
        if self.bottleneck is not None:
            self.bottleneck(z, training=False)
            parts["p_z"] = tf.maximum(self.bottleneck._likelihood(z), 1e-9)
        return parts
