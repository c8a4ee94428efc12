"""The four transforms of the mean-scale hyperprior, as functions of their weights.

Minnen, Ballé and Toderici, "Joint Autoregressive and Hierarchical Priors for Learned Image
Compression", NeurIPS 2018 (arXiv 1809.02736), without the context model; GDN is from Ballé et
al., "Density Modeling of Images Using a Generalized Normalization Transformation" (arXiv
1511.06281).

    x ── analysis ──▶ y ── hyper_analysis ──▶ z
    x_tilde ◀── synthesis ── y    mu, sigma ◀── hyper_synthesis ── z

The graph is written once; the caller chooses where its weights come from:

* training: `transforms(num_filters, …)` creates `tf.Variable`s with the names, initialisers and
  parametrisations of the layers in TensorFlow Compression 1.3;
* everything else: `checkpoints.load` evaluates the same parametrisations on a checkpoint's
  values, once, so that the graphs of inference hold plain values.

All tensors are float32, channels-last and of static shape; convolutions pad with zeros ("same").
"""

import collections
import functools

from model import device, parameters
from runtime.quiet_tf import tf

Conv = collections.namedtuple("Conv", "kernel bias beta gamma")
Conv.__doc__ = """Weights of a convolution and of the (inverse) GDN after it.

kernel: (height, width, channels in, channels out); bias: (channels out,) or None;
beta, gamma: (channels out,) and (channels out, channels out), or None if no GDN follows.
"""

Transforms = collections.namedtuple(
    "Transforms", "analysis synthesis hyper_analysis hyper_synthesis"
)
Transforms.__doc__ = "The `Conv`s of each transform, first layer first."


def analysis(x, layers):
    """g_a: maps images (N, H, W, 3) in [0, 1] to latents y (N, ⌈H/16⌉, ⌈W/16⌉, N_f)."""
    ops = device.layers()
    for layer in layers:
        x = _biased(ops.conv_down(x, layer.kernel), layer)
        if layer.gamma is not None:
            x = ops.gdn(x, layer.beta, layer.gamma)
    return x


def synthesis(y, layers, size, winograd=False):
    """g_s: maps latents y to images (N, H, W, 3), not clipped; `size` = (H, W).

    `winograd` should be set only for losses (see `model.cpu_layers.conv_up`).
    """
    ops = device.layers()
    x = y
    for layer in layers:
        x = _biased(ops.conv_up(x, layer.kernel, winograd), layer)
        if layer.gamma is not None:
            x = ops.gdn(x, layer.beta, layer.gamma, inverse=True)
    return _cropped(x, size)


def hyper_analysis(y, layers):
    """h_a: maps y (N, h, w, C) to (N, ⌈h/4⌉, ⌈w/4⌉, channels of the last layer)."""
    ops = device.layers()
    y = tf.nn.relu(_biased(ops.conv(y, layers[0].kernel), layers[0]))
    y = tf.nn.relu(_biased(ops.conv_down(y, layers[1].kernel), layers[1]))
    return ops.conv_down(y, layers[2].kernel)


def hyper_synthesis(z, layers, size):
    """h_s: maps z to the mu and sigma of p(y|z), each (N, h, w, C); `size` = (h, w) of y."""
    ops = device.layers()
    for layer in layers[:2]:
        z = tf.nn.relu(_biased(ops.conv_up(z, layer.kernel), layer))
    z = _biased(ops.conv(z, ops.flipped(layers[2].kernel)), layers[2])
    mu, log_sigma = tf.split(_cropped(z, size), 2, axis=-1)
    return mu, tf.math.exp(log_sigma)


def _cropped(x, size):
    """The first `size` rows and columns; if that is all of `x`, `x` itself, without a copy."""
    return x if x.shape.as_list()[1:3] == list(size) else x[:, : size[0], : size[1]]


def _biased(x, layer):
    return device.layers().bias_add(x, layer.bias)


def transforms(num_filters, hyper_channels, getter=tf.get_variable):
    """Creates the weights, tensors computed from the variables or values that `getter` returns.

    Args:
      num_filters: N_f, the number of channels of y and of the hidden layers.
      hyper_channels: outputs of h_a: N_f, or 2 N_f (mean and log-variance) for bits-back.
      getter: called like `tf.get_variable`, in the variable scope of each layer.

    Returns:
      `Transforms` of `Conv`s.
    """
    n, m = num_filters, int(1.5 * num_filters)
    conv = functools.partial(_weights, getter)
    h_s = "mb_t2018hyper_synthesis_transform"  # Keras's scope for the reference's class
    return Transforms(
        analysis=[
            conv("analysis_transform/layer_0", 5, 3, n, gdn="gdn_0"),
            conv("analysis_transform/layer_1", 5, n, n, gdn="gdn_1"),
            conv("analysis_transform/layer_2", 5, n, n, gdn="gdn_2"),
            conv("analysis_transform/layer_3", 5, n, n),
        ],
        synthesis=[
            conv("synthesis_transform/layer_0", 5, n, n, gdn="igdn_0"),
            conv("synthesis_transform/layer_1", 5, n, n, gdn="igdn_1"),
            conv("synthesis_transform/layer_2", 5, n, n, gdn="igdn_2"),
            conv("synthesis_transform/layer_3", 5, n, 3),
        ],
        hyper_analysis=[
            conv("hyper_analysis_transform/layer_0", 3, n, n),
            conv("hyper_analysis_transform/layer_1", 5, n, n),
            conv("hyper_analysis_transform/layer_2", 5, n, hyper_channels, bias=False),
        ],
        hyper_synthesis=[
            conv(h_s + "/layer_0", 5, n, n, rdft=False),
            conv(h_s + "/layer_1", 5, n, m, rdft=False),
            conv(h_s + "/layer_2", 3, m, 2 * n, rdft=False),
        ],
    )


def _weights(getter, scope, support, channels_in, channels_out, gdn=None, bias=True, rdft=True):
    """A `Conv`. gdn: its GDN's scope; rdft: whether the kernel's Fourier transform is trained."""
    with tf.variable_scope(scope):
        kernel = _parameter(
            parameters.fourier if rdft else None,
            getter,
            "kernel",
            (support, support, channels_in, channels_out),
            tf.initializers.variance_scaling(),
        )
        biases = beta = gamma = None
        if bias:
            biases = _parameter(None, getter, "bias", (channels_out,), tf.initializers.zeros())
        if gdn:
            with tf.variable_scope(gdn):
                beta = _parameter(
                    functools.partial(parameters.nonnegative, minimum=1e-6),
                    getter,
                    "beta",
                    [channels_out],
                    tf.initializers.ones(),
                )
                gamma = _parameter(
                    parameters.nonnegative,
                    getter,
                    "gamma",
                    [channels_out, channels_out],
                    tf.initializers.identity(gain=0.1),
                )
    return Conv(kernel, biases, beta, gamma)


def _parameter(parameterizer, getter, name, shape, initializer):
    if parameterizer is None:
        return getter(name=name, shape=shape, dtype=tf.float32, initializer=initializer)
    return parameterizer(
        getter=getter, name=name, shape=shape, dtype=tf.float32, initializer=initializer
    )
