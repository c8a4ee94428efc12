"""The operations that take nearly all the time, in the shapes that a CPU is fast at.

* `conv_up`, the transpose of a convolution of stride 2, as the convolutions that its output
  interleaves (Shi et al. 2016, arXiv 1609.05158), one for even rows and one for odd: TensorFlow's
  `conv2d` comes closer to the speed of a matrix product than its `conv2d_transpose`. `conv_down`
  has that for its gradient.
* The same with Winograd's minimal filtering (Lavin and Gray 2016, arXiv 1509.09308), where an error
  of some 1e-6 of the largest output does not matter, because nothing is decoded with it.
* `gdn`, with a gradient of few operations, in pieces that stay in a processor's cache.
* `bias_add` and `mean_squared_error` without slow broadcasts.

Kernels are 5×5 but for `conv`. Tensors are float32, channels-last and of static shape.
"""

import numpy as np

from runtime.quiet_tf import tf

TAPS = 5


def conv_down(x, kernel):
    """Correlation with zeros around `x`, of which every second sample is kept, from the first on.

    Args:
      x: (N, H, W, C).
      kernel: (5, 5, C, M).

    Returns:
      (N, ⌈H/2⌉, ⌈W/2⌉, M).
    """

    @tf.custom_gradient
    def correlate(x, kernel):
        def gradient(g):
            height, width = x.shape.as_list()[1:3]
            dx = _up(g, _transposed(kernel))[:, :height, :width]
            return dx, _kernel_gradient(x, kernel, g, stride=2)

        return _correlated(x, kernel, stride=2), gradient

    return correlate(x, kernel)


def conv(x, kernel):
    """Correlation with zeros around `x`.

    Args:
      x: (N, H, W, C).
      kernel: (2k + 1, 2k + 1, C, M).

    Returns:
      (N, H, W, M).
    """

    @tf.custom_gradient
    def correlate(x, kernel):
        def gradient(g):
            dx = _correlated(g, _transposed(flipped(kernel)), stride=1)
            return dx, _kernel_gradient(x, kernel, g, stride=1)

        return _correlated(x, kernel, stride=1), gradient

    return correlate(x, kernel)


def conv_up(x, kernel, winograd=False):
    """Zeros put between the samples of `x`, then convolution.

    Args:
      x: (N, h, w, C).
      kernel: (5, 5, C, M).
      winograd: whether speed matters more than the last bits; the kernel has to be a constant then.

    Returns:
      (N, 2h, 2w, M).
    """
    if winograd and _is_for_winograd(x, kernel):
        return _Winograd(x.shape.as_list(), kernel).up(x)

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradient(g):
            adjoint = _transposed(kernel)
            dx = _correlated(g, adjoint, stride=2)
            return dx, _transposed(_kernel_gradient(g, adjoint, x, stride=2))

        return _up(x, kernel), gradient

    return convolve(x, kernel)


def flipped(kernel):
    """With which a correlation is a convolution."""
    return _folded("flipped", kernel, lambda kernel: kernel[::-1, ::-1])


def _transposed(kernel):
    return _folded(
        "transposed", kernel, lambda kernel: _library(kernel).transpose(kernel, (0, 1, 3, 2))
    )


def _library(kernel):
    return np if isinstance(kernel, np.ndarray) else tf


def _folded(name, kernel, function):
    """`function(kernel)`; of a constant a constant, made in NumPy, once and outside of loops."""
    if kernel.op.type != "Const":
        return function(kernel)
    cache = tf.get_collection_ref("folded constants")
    for key, of, result in cache:
        if key == name and of is kernel:
            return result
    with tf.control_dependencies(None):
        result = tf.nest.map_structure(tf.constant, function(tf.get_static_value(kernel)))
    cache.append((name, kernel, result))
    return result


def _correlated(x, kernel, stride):
    return tf.nn.conv2d(x, kernel, strides=stride, padding=_padding(kernel))


def _kernel_gradient(x, kernel, g, stride):
    """Of `_correlated`."""
    shape = kernel.shape.as_list()
    strides = (1, stride, stride, 1)
    return tf.nn.conv2d_backprop_filter(x, shape, g, strides=strides, padding=_padding(kernel))


def _padding(kernel):
    """Half a kernel of odd size on all sides."""
    rows, columns = (taps // 2 for taps in kernel.shape.as_list()[:2])
    return [[0, 0], [rows, rows], [columns, columns], [0, 0]]


FEW_OUTPUTS = 16  # up to here TensorFlow's own way is the faster one


def _up(x, kernel):
    batch, height, width, _ = x.shape.as_list()
    outputs = kernel.shape.as_list()[3]
    if outputs <= FEW_OUTPUTS:
        return tf.nn.conv2d_backprop_input(
            [batch, 2 * height, 2 * width, outputs],
            _transposed(kernel),
            x,
            strides=(1, 2, 2, 1),
            padding=_padding(kernel),
        )
    rows = [
        tf.nn.conv2d(
            x, _row_kernel(kernel, a), strides=1, padding=[[0, 0], [1 - a, 1], [1, 1], [0, 0]]
        )
        for a in (0, 1)
    ]
    rows = [tf.reshape(row, (batch * height, 2 * width * outputs)) for row in rows]
    return tf.reshape(tf.concat(rows, 1), (batch, 2 * height, 2 * width, outputs))


def _row_kernel(kernel, a):
    return _folded("rows {}".format(a), kernel, lambda kernel: _row_taps(kernel, a))


def _row_taps(kernel, a):
    """With which rows 2u + a are made, even and odd columns as channels: (3 - a, 3, C, 2M).

    The odd ones' missing tap is a zero: one convolution with some zeros is faster than two.
    """
    library = _library(kernel)
    columns = [
        library.pad(_taps(kernel, a, b), [[0, 0], [b, 0], [0, 0], [0, 0]], "constant")
        for b in (0, 1)
    ]
    channels, outputs = (int(number) for number in kernel.shape[2:])
    return library.reshape(library.stack(columns, axis=3), (3 - a, 3, channels, 2 * outputs))


def _taps(kernel, a, b):
    """Those with which samples (2u + a, 2v + b) are made.

    Even rows depend on x[u - 1], x[u], x[u + 1], odd ones on x[u], x[u + 1].
    """
    return kernel[TAPS - 1 - a :: -2, TAPS - 1 - b :: -2]


FEW_CHANNELS = 16  # broadcasting to so few is slow


def bias_add(x, bias):
    """`x` (N, H, W, C) + `bias` (C,), of few channels for whole rows at once."""
    _, _, width, channels = x.shape.as_list()
    if channels > FEW_CHANNELS:
        return tf.nn.bias_add(x, bias)
    rows = tf.reshape(x, (-1, width * channels))
    return tf.reshape(tf.nn.bias_add(rows, tf.tile(bias, [width])), x.shape)


# --- Winograd --------------------------------------------------------------------------------

WINOGRAD_CHANNELS = 128  # with fewer there is too little to multiply for all that is moved,
WINOGRAD_TILES = 128  # and with fewer of these too little for all the weights
TILE, REACH = 4, 6  # samples that a tile makes of each phase, and those of x that they depend on
POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and ∞: a fifth of the error of (0, ±1, ±2)


def toom_cook(points, outputs):
    """The matrices A, G, B of minimal filtering in one dimension.

    A (Gg ⊙ Bd) is the correlation of d (n samples) with g (n - outputs + 1 taps), at `outputs`
    places. n is the number of `points` and one, which is ∞ (Blahut 2010, "Fast Algorithms for
    Signal Processing", section 5.2).
    """
    points = np.array(points)
    n = len(points) + 1
    a = np.zeros((outputs, n))
    a[:, :-1] = points ** np.arange(outputs)[:, None]
    a[-1, -1] = 1
    g = np.zeros((n, n - outputs + 1))
    b = np.zeros((n, n))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        g[i] = point ** np.arange(n - outputs + 1) / np.prod(point - others)
        b[i, :-1] = np.poly(others)[::-1]
    g[-1, -1] = 1
    b[-1] = np.poly(points)[::-1]
    return a, g, b


def _is_for_winograd(x, kernel):
    batch, height, width, _ = x.shape.as_list()
    tiles = batch * -(-height // TILE) * -(-width // TILE)
    return min(kernel.shape.as_list()[2:]) >= WINOGRAD_CHANNELS and tiles >= WINOGRAD_TILES


class _Winograd:
    """`conv_up` of tensors of one shape with one kernel, as 36 matrix products.

    The four phases, their taps filled up with zeros to 3×3, are one correlation with 4 M outputs.
    Rows of matrices are gathered into tiles and back, in steps of C or M numbers.
    """

    def __init__(self, shape, kernel):
        self.shape = shape
        batch, height, width, self.channels = shape
        self.outputs = kernel.shape.as_list()[3]
        down, across = -(-height // TILE), -(-width // TILE)
        self.tiles = (batch, down, across)
        self.a, self.b, self.weights = _winograd_constants(kernel)

        n = np.arange(batch)
        # Rows of the padded x, in the order (REACH, REACH, batch, down, across).
        self.padded = (TILE * down + 2, TILE * across + 2)
        i, j, n_, t, s = np.ix_(
            np.arange(REACH), np.arange(REACH), n, TILE * np.arange(down), TILE * np.arange(across)
        )
        self.inputs = _indices((n_, i + t, j + s), (batch, *self.padded))
        # Where the output's rows are, in the order (TILE, TILE, batch, down, across, 2, 2).
        n_, i, j = np.ix_(n, np.arange(2 * height), np.arange(2 * width))
        u, v = i // 2, j // 2
        places = (u % TILE, v % TILE, n_, u // TILE, v // TILE, i % 2, j % 2)
        self.places = _indices(places, (TILE, TILE, *self.tiles, 2, 2))
        # The inverse; tiles that stick out take a row of zeros that is put at the end.
        origins = np.full(TILE**2 * int(np.prod(self.tiles)) * 4, self.places.size)
        origins[self.places] = np.arange(self.places.size)
        self.origins = origins

    def up(self, x):
        """The convolution and its gradient."""

        @tf.custom_gradient
        def convolve(x):
            return self._forward(x), self._backward

        return convolve(x)

    def _forward(self, x):
        batch, height, width, _ = self.shape
        below, right = (self.padded[0] - height - 1, self.padded[1] - width - 1)
        x = tf.pad(x, [[0, 0], [1, below], [1, right], [0, 0]])
        x = tf.gather(tf.reshape(x, (-1, self.channels)), self.inputs)
        x = tf.matmul(self.b, tf.reshape(x, (REACH**2, -1)))
        x = tf.matmul(tf.reshape(x, (REACH**2, -1, self.channels)), self.weights)
        x = tf.matmul(self.a, tf.reshape(x, (REACH**2, -1)))
        x = tf.gather(tf.reshape(x, (-1, self.outputs)), self.places)
        return tf.reshape(x, (batch, 2 * height, 2 * width, self.outputs))

    def _backward(self, g):
        batch, height, width, _ = self.shape
        g = tf.reshape(g, (-1, self.outputs))
        if self.origins.size > self.places.size:
            g = tf.pad(g, [[0, 1], [0, 0]])
        g = tf.reshape(tf.gather(g, self.origins), (TILE**2, -1))
        g = tf.matmul(self.a, g, transpose_a=True)
        g = tf.reshape(g, (REACH**2, -1, 4 * self.outputs))
        g = tf.matmul(g, self.weights, transpose_b=True)
        g = tf.matmul(self.b, tf.reshape(g, (REACH**2, -1)), transpose_a=True)
        g = tf.reshape(g, (REACH, REACH, *self.tiles, self.channels))
        g = _overlapped(_overlapped(g, axis=0, tiles=3), axis=1, tiles=4)
        g = tf.reshape(
            tf.transpose(g, (2, 3, 0, 4, 1, 5)),
            (batch, TILE * self.tiles[1], TILE * self.tiles[2], self.channels),
        )
        return g[:, :height, :width]


def _winograd_constants(kernel):
    """The matrices of two dimensions, and the kernel as that of the 36 products."""

    def constants(kernel):
        a, g, b = (np.kron(m, m) for m in toom_cook(POINTS, TILE))
        rows = [
            np.pad(_row_taps(kernel, i), [(i, 0), (0, 0), (0, 0), (0, 0)], "constant")
            for i in (0, 1)
        ]
        taps = np.stack(rows, axis=3)
        weights = np.dot(g, taps.reshape(9, -1)).reshape(REACH**2, kernel.shape[2], -1)
        return [m.astype(np.float32) for m in (a, b, weights)]

    return _folded("Winograd", kernel, constants)


def _indices(places, shape):
    return np.ravel_multi_index(np.broadcast_arrays(*places), shape).astype(np.int32).ravel()


def _overlapped(g, axis, tiles):
    """Adds what tiles reach of their neighbours, first and last along `axis`, to what is theirs."""
    first, *own, last = tf.unstack(g, axis=axis)
    own[0] += _shifted(last, tiles - 1, 1)
    own[-1] += _shifted(first, tiles - 1, -1)
    return tf.stack(own, axis)


def _shifted(v, axis, by):
    """`v` moved by one place along `axis`, with zeros where nothing comes from."""
    paddings = [[0, 0] for _ in v.shape]
    begin, size = [0] * len(paddings), v.shape.as_list()
    size[axis] -= 1
    paddings[axis] = [1, 0] if by > 0 else [0, 1]
    begin[axis] = 0 if by > 0 else 1
    return tf.pad(tf.slice(v, begin, size), paddings)


# --- Distortion ------------------------------------------------------------------------------


def mean_squared_error(x, x_tilde):
    """Mean of (x - x_tilde)² of each image, (N,), with a gradient of one pass for `x_tilde`.

    Args:
      x, x_tilde: (N, H, W, C); no gradient for `x`.
    """
    number = np.prod(x.shape.as_list()[1:])

    @tf.custom_gradient
    def error(x_tilde):
        def gradient(g):
            return (2 / number) * tf.reshape(g, (-1, 1, 1, 1)) * (x_tilde - x)

        return tf.reduce_mean(tf.math.squared_difference(x, x_tilde), axis=(1, 2, 3)), gradient

    return error(x_tilde)


# --- GDN -------------------------------------------------------------------------------------

STRIP_BYTES = 2**22  # some of these fit a processor's cache


def gdn(x, beta, gamma, inverse=False):
    """Generalised divisive normalisation (Ballé et al. 2016, arXiv 1511.06281).

    Args:
      x: (N, H, W, C).
      beta, gamma: (C,) and (C, C).
      inverse: whether to multiply, as the approximate inverse does, rather than to divide.

    Returns:
      x_i / √p_i, or x_i √p_i, of the shape of `x`; p_i = beta_i + Σ_j gamma_ji x_j².
    """
    channels = x.shape.as_list()[-1]
    pixels = int(np.prod(x.shape.as_list()[:-1]))

    @tf.custom_gradient
    def normalise(x, beta, gamma):
        strips = _strips(x)
        root = tf.math.sqrt if inverse else tf.math.rsqrt
        scales = [root(_pool(strip, beta, gamma)) for strip in strips]

        def gradient(g):
            pieces = list(zip(strips, scales, _strips(g)))
            if inverse:  # pulls: 2 ∂loss/∂p
                pulls = [strip * g / scale for strip, scale, g in pieces]
            else:
                pulls = [-strip * g * scale * tf.math.square(scale) for strip, scale, g in pieces]
            dx = tf.concat(
                [
                    g * scale + strip * tf.matmul(pull, gamma, transpose_b=True)
                    for (strip, scale, g), pull in zip(pieces, pulls)
                ],
                axis=0,
            )
            dbeta = 0.5 * tf.add_n([tf.reduce_sum(pull, axis=0) for pull in pulls])
            dgamma = 0.5 * tf.add_n(
                [
                    tf.matmul(tf.math.square(strip), pull, transpose_a=True)
                    for strip, pull in zip(strips, pulls)
                ]
            )
            return tf.reshape(dx, x.shape), dbeta, dgamma

        y = tf.concat([strip * scale for strip, scale in zip(strips, scales)], axis=0)
        return tf.reshape(y, x.shape), gradient

    def _strips(v):
        number = -(-4 * pixels * channels // STRIP_BYTES)
        edges = np.linspace(0, pixels, number + 1).astype(int)
        return tf.split(tf.reshape(v, (pixels, channels)), np.diff(edges), axis=0)

    return normalise(x, beta, gamma)


def _pool(x, beta, gamma):
    return tf.nn.bias_add(tf.matmul(tf.math.square(x), gamma), beta)
