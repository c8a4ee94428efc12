"""The parts of a trained model that coding needs: integer networks, the prior, a digest of both.

They are the float32 values of the checkpoint, rounded to fixed point. If TFC trains the Fourier
transform of a kernel, the inverse transform is computed in float64, in a fixed order.
"""

import hashlib

import numpy as np

from coding import arithmetic, container, tables
from coding.decoding import Decoder
from coding.integer_networks import UNIT, HyperAnalysis, HyperSynthesis, Prior, integer_layer
from model import checkpoints, entropy_models
from runtime.quiet_tf import tf

H_S = "mb_t2018hyper_synthesis_transform/layer_"
H_A = "hyper_analysis_transform/layer_"


def load(run, bits_back):
    """The `Decoder` of a `checkpoints.Run`, of the base or of the bits-back model.

    Raises:
      InputError: the checkpoint is damaged, or its weights are too large for exact sums.
    """
    with checkpoints.reading(run.checkpoint):
        return _decoder(tf.train.load_checkpoint(run.checkpoint), run, bits_back)


def _decoder(reader, run, bits_back):
    scope = "" if bits_back else "entropy_bottleneck/"

    def layer(name, **settings):
        kernel = _kernel(reader, name, run.num_filters)
        if name.startswith(H_S) and not settings["up"]:
            kernel = kernel[::-1, ::-1]  # convolution is correlation with the flipped kernel
        bias = np.zeros(kernel.shape[3])
        if reader.has_tensor(name + "/bias"):
            bias = reader.get_tensor(name + "/bias").astype(np.float64)
        return integer_layer(kernel, bias, "{}: {}".format(run.checkpoint, name), **settings)

    hyper_synthesis = HyperSynthesis(
        [
            layer(H_S + "0", stride=2, up=True, relu=True),
            layer(H_S + "1", stride=2, up=True, relu=True),
            layer(H_S + "2", stride=1, up=False, relu=False),
        ]
    )
    hyper_analysis = None
    medians = np.zeros(run.num_filters)
    if bits_back:
        hyper_analysis = HyperAnalysis(
            [
                layer(H_A + "0", stride=1, up=False, relu=True),
                layer(H_A + "1", stride=2, up=False, relu=True),
                layer(H_A + "2", stride=2, up=False, relu=False),
            ]
        )
    else:
        medians = reader.get_tensor(scope + "quantiles")[:, 0, 1].astype(np.float64)
        medians = np.floor(medians / UNIT + 0.5)
    decoder = Decoder(hyper_synthesis, hyper_analysis, _prior(reader, scope), medians, None)
    return decoder._replace(digest=_digest(decoder, reader))


def _kernel(reader, name, channels_in):
    """The kernel of a layer, float64 (height, width, channels in, channels out)."""
    if not reader.has_tensor(name + "/kernel_rdft"):
        return reader.get_tensor(name + "/kernel").astype(np.float64)
    parameters = reader.get_tensor(name + "/kernel_rdft").astype(np.float64)
    side = int(round(len(parameters) ** 0.5))
    basis = _fourier_basis(side)[:, :, None, None]
    parameters = parameters.reshape(side, side, channels_in, -1)
    # One axis after the other, adding terms in this order.
    rows = sum(basis[:, k, None] * parameters[k] for k in range(side))
    return sum(basis[:, k] * rows[:, None, k] for k in range(side))


def _fourier_basis(side):
    """TFC's real Fourier basis for one side of a kernel, (sample, frequency).

    It is rounded to multiples of 2^-30, so that the last bits of the C library's cosine do not
    matter.
    """
    angle = 2 * np.pi * np.arange(side) / side
    columns = [np.ones(side)]
    for k in range(1, (side + 1) // 2):
        columns += [2**0.5 * np.cos(k * angle), -(2**0.5) * np.sin(k * angle)]
    return np.floor(np.stack(columns, axis=1) / side**0.5 * 2**30 + 0.5) / 2**30


def _prior(reader, scope):
    def read(name, layer, function=lambda array: array):
        name = "{}{}_{}".format(scope, name, layer)
        if not reader.has_tensor(name):  # the last layer has no factors
            return []
        # (C, units, inputs)
        return [function(reader.get_tensor(name).astype(np.float64))]

    weights = []
    for layer in range(len(entropy_models.FILTERS) - 1):
        parts = read("matrix", layer, arithmetic.softplus) + read("bias", layer)
        parts += read("factor", layer, arithmetic.tanh)
        joined = np.concatenate(parts, axis=2)
        weights.append(joined.reshape(len(joined), -1).T)
    return Prior(np.concatenate(weights))


def _digest(decoder, reader):
    digest = hashlib.sha256()
    networks = filter(None, (decoder.hyper_synthesis, decoder.hyper_analysis))
    for layer in (layer for network in networks for layer in network.layers):
        for integers in (layer.kernel, layer.bias):
            digest.update(integers.astype("<i8").tobytes())
    digest.update(decoder.medians.astype("<i8").tobytes())
    prior = tables.PriorTables(decoder.prior, decoder.medians * UNIT)
    for table in prior.tables(np.arange(len(decoder.medians))):
        digest.update(table.probabilities.astype("<f8").tobytes())
    digest.update(tables.fingerprint())
    for name in sorted(reader.get_variable_to_shape_map()):
        if name.startswith("synthesis_transform/") and "Adam" not in name:
            digest.update(reader.get_tensor(name).astype("<f4").tobytes())
    return digest.digest()[: container.DIGEST_BYTES]
