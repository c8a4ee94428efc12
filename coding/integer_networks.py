"""The hyperprior's networks on integers, so that encoder and decoder agree to the last bit.

p(y|z) has to be the same in encoder and decoder. A float network is not: its sums depend on the
order of their terms, which changes with the machine, the number of threads and the batch. Here
weights and activations are integers in fixed point, so that each sum is an integer below 2^53,
which float64 holds exactly whatever the order:

    activations  a = â / 2^12,  |â| ≤ 2^26 (clamped after each layer; |a| ≤ 16384)
    weights      w = ŵ / 2^16,  2^26 Σ|ŵ| + |bias| < 2^53 for each output: checked on loading
                 (fewer bits than 16 in layers where Σ|w| reaches 1024)
    a layer      â' = clamp(relu(⌊(Σ ŵ â + bias) / 2^16 + ½⌋))

Latents enter on the grid of 2^-12 (integers, medians and the grid of a bits-back z all lie on it).
The inputs of all this are the float32 values of the checkpoint, rounded; where TFC trains the
Fourier transform of a kernel, its inverse is computed in float64 in a fixed order.

Against the float model mu and log sigma change by about 1e-3 in the demo models. With the grids of
`tables.py`, this changes the rate of Kodak images by -0.05% to +0.003%.
"""

import collections
import hashlib

import numpy as np

import entropy_models
import utils
from coding import arithmetic, container, tables
from quiet_tf import tf

H_S = "mb_t2018hyper_synthesis_transform/layer_"
H_A = "hyper_analysis_transform/layer_"

FRACTION_BITS = 12
UNIT = 2.0**-FRACTION_BITS
WEIGHT_BITS = 16
CLAMP = 2.0**26
EXACT = 2.0**53

# Gradients, for `posterior.py`, take the same way back: before each layer they are rounded to
# multiples of a power of two, of which the largest gradient is at most so many.
GRADIENT_LARGEST = 2.0**27


class Layer(
    collections.namedtuple(
        "Layer",
        "kernel bias stride up relu bits gradient_largest",
        defaults=(WEIGHT_BITS, GRADIENT_LARGEST),
    )
):
    """A convolution on integers.

    kernel: (height, width, channels in, channels out), in units of 2^-bits; bias: (channels out,),
    in units of 2^-(bits + 12); up: whether `stride` is that of a transposed convolution;
    gradient_largest: of the integers that `backward` goes over to.
    """

    def forward(self, a):
        """Activations of the next layer, (h', w', C'), from those of this one, (h, w, C)."""
        convolve = spread if self.up else correlate
        a = shift(convolve(a, self.kernel, self.stride) + self.bias, self.bits)
        return np.clip(a, 0 if self.relu else -CLAMP, CLAMP)

    def backward(self, gradient, output):
        """Gradients of the input, float values, from those of the `output` of `forward`."""
        if self.relu:
            gradient = gradient * (output > 0)
        _, exponent = np.frexp(np.max(np.abs(gradient)))
        unit = np.ldexp(1 / self.gradient_largest, exponent)
        convolve = correlate if self.up else spread
        integers = np.floor(gradient / unit + 0.5)
        gradient = convolve(integers, self.kernel.transpose(0, 1, 3, 2), self.stride)
        return gradient * (unit * 2.0**-self.bits)


def correlate(a, kernel, stride):
    """`a` (h, w, C) with zeros around, correlated with a kernel, every `stride`-th sample."""
    height, width = (-(-side // stride) for side in a.shape[:2])
    rows, columns, _, channels = kernel.shape
    padded = np.pad(a, ((rows // 2,) * 2, (columns // 2,) * 2, (0, 0)), "constant")
    down, right, across = padded.strides
    output = np.empty((height, width, channels), a.dtype)
    matrix = kernel.reshape(-1, channels)
    for block in _blocks(height, width * len(matrix)):
        patches = np.lib.stride_tricks.as_strided(
            padded[stride * block.start :],
            (block.stop - block.start, width, rows, columns, a.shape[2]),
            (stride * down, stride * right, down, right, across),
        )
        product = patches.reshape(-1, len(matrix)) @ matrix
        output[block] = product.reshape(-1, width, channels)
    return output


def spread(a, kernel, stride):
    """The transpose of `correlate`: (h, w, C) to (stride · h, stride · w, C')."""
    if stride == 1:
        return correlate(a, kernel[::-1, ::-1], 1)
    height, width, channels_in = a.shape
    rows, columns, _, channels = kernel.shape
    top, left = rows // 2, columns // 2
    padded = np.zeros((stride * height + 2 * top, stride * width + 2 * left, channels), a.dtype)
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels_in, -1)
    for block in _blocks(height, width * matrix.shape[1]):
        product = a[block].reshape(-1, channels_in) @ matrix
        product = product.reshape(-1, width, rows, columns, channels)
        for i, j in np.ndindex(rows, columns):
            start, stop = (stride * row + i for row in (block.start, block.stop))
            padded[start:stop:stride, j : j + stride * width : stride] += product[:, :, i, j]
    return padded[top : top + stride * height, left : left + stride * width]


def _blocks(rows, elements):
    """Slices of rows, each with so many elements that a product of them takes little memory."""
    step = max(2**22 // elements, 1)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def shift(integers, bits):
    """Division by 2^bits, to the nearest integer; exact below 2^53."""
    return np.floor(integers * 2.0**-bits + 0.5)


class HyperSynthesis:
    """h_s on integers. Layers: two up, one plain."""

    def __init__(self, layers):
        self.layers = layers

    def forward(self, z, size):
        """mu and log sigma of p(y|z) in units of 2^-12, and the activations for `backward`.

        Args:
          z: (h, w, C) in units of 2^-12.
          size: (height, width) of y, at most four times that of z.

        Returns:
          mu, log_sigma: (*size, C) each; activations: list of arrays.
        """
        a = np.clip(z, -CLAMP, CLAMP)
        activations = []
        for layer in self.layers:
            a = layer.forward(a)
            activations.append(a)
        mu, log_sigma = np.split(a[: size[0], : size[1]], 2, axis=-1)
        return mu, log_sigma, activations

    def backward(self, mu_gradient, log_sigma_gradient, activations):
        """Gradient with respect to z, from those of mu and log sigma, all float values."""
        gradient = np.concatenate([mu_gradient, log_sigma_gradient], axis=-1)
        full = np.zeros_like(activations[-1])
        full[: gradient.shape[0], : gradient.shape[1]] = gradient
        for layer, output in zip(self.layers[::-1], activations[::-1]):
            full = layer.backward(full, output)
        return full


class HyperAnalysis:
    """h_a of the bits-back model on integers."""

    def __init__(self, layers):
        self.layers = layers

    def forward(self, y):
        """Mean and log-variance of q(z|y), float64 on the grid of 2^-12, from integers y."""
        a = np.clip(y / UNIT, -CLAMP, CLAMP)
        for layer in self.layers:
            a = layer.forward(a)
        return np.split(a * UNIT, 2, axis=-1)


class Prior(collections.namedtuple("Prior", "matrices biases factors")):
    """p(z), the `entropy_models.Density`, as lists of float64 arrays for each layer.

    matrices: (d_out, d_in, C); biases and factors: (d_out, C).
    """

    def logits(self, z):
        """logit of the cdf at `z` (…, C), and its first and second derivative."""
        values, slopes, bends = [z], [np.ones_like(z)], [np.zeros_like(z)]
        for index, (matrix, bias) in enumerate(zip(self.matrices, self.biases)):
            values, slopes, bends = (
                [sum(m * v for m, v in zip(row, inputs)) for row in matrix]
                for inputs in (values, slopes, bends)
            )
            values = [value + b for value, b in zip(values, bias)]
            if index < len(self.factors):
                for i, factor in enumerate(self.factors[index]):
                    squashed = arithmetic.tanh(values[i])
                    steepness = factor * (1 - squashed * squashed)
                    values[i] = values[i] + factor * squashed
                    bends[i] = bends[i] * (1 + steepness) - (
                        2 * steepness * squashed * slopes[i] * slopes[i]
                    )
                    slopes[i] = slopes[i] * (1 + steepness)
        return values[0], slopes[0], bends[0]

    def cdf(self, z):
        """The distribution function at `z` (…, C)."""
        return arithmetic.sigmoid(self.logits(z)[0])


class Decoder(
    collections.namedtuple("Decoder", "hyper_synthesis hyper_analysis prior medians digest")
):
    """What the coding of latents needs of a model.

    hyper_analysis: None for the base model; medians: (C,) in units of 2^-12, zero for bits-back;
    digest: bytes that depend on every weight that a decoder uses, and the tables.
    """


def load(run, bits_back):
    """The `Decoder` of a `utils.Run`, of the base or of the bits-back model.

    Raises:
      utils.InputError: the weights are too large for exact sums.
    """
    reader = tf.train.load_checkpoint(run.checkpoint)
    scope = "" if bits_back else "entropy_bottleneck/"

    def layer(name, **settings):
        kernel = _kernel(reader, name, run.num_filters)
        if name.startswith(H_S) and not settings["up"]:
            kernel = kernel[::-1, ::-1]  # a convolution is a correlation with the flipped kernel
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


def integer_layer(kernel, bias, name, **settings):
    """A `Layer` from float64 weights, with as many bits as its sums leave room for.

    Raises:
      utils.InputError: they leave too little; `name` is that of the layer.
    """
    # Of integers, so that the sums are exact here too.
    sums = np.abs(np.floor(kernel * 2.0**WEIGHT_BITS + 0.5)).sum(axis=(0, 1, 2))
    bits = WEIGHT_BITS - max(int(np.frexp(sums.max())[1]) - 26, 0)
    kernel = np.floor(kernel * 2.0**bits + 0.5)
    bias = np.floor(bias * 2.0 ** (bits + FRACTION_BITS) + 0.5)
    sums = np.abs(kernel).sum(axis=(0, 1, 3))
    largest = min(GRADIENT_LARGEST, 2.0 ** (52 - int(np.frexp(sums.max())[1])))
    layer = Layer(kernel, bias, bits=bits, gradient_largest=largest, **settings)
    check_exact(layer, name)
    return layer


def check_exact(layer, name):
    """Raises `utils.InputError` where a sum of `layer` might reach 2^53."""
    weights = np.abs(layer.kernel)
    forward = CLAMP * weights.sum(axis=(0, 1, 2)) + np.abs(layer.bias)
    backward = layer.gradient_largest * weights.sum(axis=(0, 1, 3))
    if not (max(forward.max(), backward.max()) < EXACT and layer.bits >= 8):  # NaN is refused too
        raise utils.InputError("{}: weights too large to code with".format(name))


def _kernel(reader, name, channels_in):
    """Kernel of a layer, float64 (height, width, channels in, channels out)."""
    if not reader.has_tensor(name + "/kernel_rdft"):
        return reader.get_tensor(name + "/kernel").astype(np.float64)
    parameters = reader.get_tensor(name + "/kernel_rdft").astype(np.float64)
    side = int(round(len(parameters) ** 0.5))
    basis = _fourier_basis(side)[:, :, None, None]
    parameters = parameters.reshape(side, side, channels_in, -1)
    # One axis after the other, term by term, in this order.
    rows = sum(basis[:, k, None] * parameters[k] for k in range(side))
    return sum(basis[:, k] * rows[:, None, k] for k in range(side))


def _fourier_basis(side):
    """TFC's real Fourier basis of a kernel's side, (sample, frequency), on a grid of 2^-30.

    So the last bits of the C library's cosine do not matter.
    """
    angle = 2 * np.pi * np.arange(side) / side
    columns = [np.ones(side)]
    for k in range(1, (side + 1) // 2):
        columns += [2**0.5 * np.cos(k * angle), -(2**0.5) * np.sin(k * angle)]
    return np.floor(np.stack(columns, axis=1) / side**0.5 * 2**30 + 0.5) / 2**30


def _prior(reader, scope):
    def read(name, function):
        layers = range(len(entropy_models.FILTERS) - 1)
        present = [i for i in layers if reader.has_tensor("{}{}_{}".format(scope, name, i))]
        arrays = (reader.get_tensor("{}{}_{}".format(scope, name, i)) for i in present)
        # Channels last: [output][input](C,).
        return [function(array.astype(np.float64)).transpose(1, 2, 0) for array in arrays]

    return Prior(
        read("matrix", arithmetic.softplus),
        [bias[:, 0] for bias in read("bias", lambda bias: bias)],
        [factor[:, 0] for factor in read("factor", arithmetic.tanh)],
    )


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
