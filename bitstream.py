"""The `.tfci` files of the base codec: `tfc.PackedTensors` of range-coded latents.

    1  strings of y, one per image     3  height and width of the images
    2  strings of z, one per image     4  height and width of y     5  of z

y is coded with the Gaussian table whose sigma is the next one above its own, z with its channel's
table; both tables lie in the checkpoint. Symbols are distances to the centre of the grid: mu, and
the medians. The coder is TFC's, its parameters are those of `tfc.EntropyBottleneck` and
`tfc.GaussianConditional` (1.3).
"""

import collections
import warnings

import numpy as np
import scipy.stats

import entropy_models
from quiet_tf import tf, tfc
from utils import InputError

MAX_SIDE = 1 << 16  # pixels

Tables = collections.namedtuple("Tables", "cdf length offset")
Tables.__doc__ = """Probability tables of the range coder, int32.

cdf: (tables, longest + 2), quantised to 16 bits; length: (tables,), entries that count; offset:
(tables,), the first symbol of each.
"""

TablesOfLatents = collections.namedtuple("TablesOfLatents", "y z")
TablesOfLatents.__doc__ = (
    "`Tables` of y, one for each of `entropy_models.SCALE_TABLE`; of z, one a channel."
)


def make_range_coder_tables():
    """Makes TFC's `gaussian_conditional/…` variables, which checkpoints carry for the coder."""
    dummy = tf.ones((1, 1, 1, 1))
    tfc.GaussianConditional(dummy, entropy_models.SCALE_TABLE)(dummy, training=False)


def read_range_coder_tables(reader):
    """`TablesOfLatents` from a base model's checkpoint; offsets as TFC's layers compute them."""
    lower, median, _ = reader.get_tensor("entropy_bottleneck/quantiles")[:, 0, :].T
    tail = -scipy.stats.norm.ppf(2.0**-9)  # TFC's default tail_mass, 2**-8, has two sides

    def tables(scope, first_symbol):
        cdf = reader.get_tensor(scope + "/quantized_cdf")
        return Tables(cdf, reader.get_tensor(scope + "/cdf_length"), first_symbol.astype(np.int32))

    return TablesOfLatents(
        y=tables("gaussian_conditional", -np.ceil(entropy_models.SCALE_TABLE * tail)),
        z=tables("entropy_bottleneck", -np.maximum(np.ceil(median - lower), 0)),
    )


def encode(model, y, z, size):
    """The parts of a file, as a list of tensors.

    Args:
      model: `hyperprior.Mbt2018` with sigma bounded.
      y, z: latents on the model's grids (`round_centred`).
      size: (H, W) of the images.
    """
    mu, sigma = model.hyper_synthesis(z, y)
    y_symbols = tf.cast(tf.math.round(y - mu), tf.int32)
    z_symbols = tf.cast(tf.math.round(z - model.medians), tf.int32)
    return [
        _range_encode(y_symbols, _sigma_index(sigma), model.tables.y),
        _range_encode(z_symbols, _channel_index(z), model.tables.z),
        tf.constant(size),
        tf.constant(y.shape.as_list()[1:3]),
        tf.constant(z.shape.as_list()[1:3]),
    ]


def decode(model, parts):
    """The latents y of a file's `parts` (of `unpack`), (N, h, w, C)."""
    y_strings, z_strings, _, y_size, z_size = parts
    channels = model.tables.z.length.shape[0]
    shape = [len(z_strings)] + list(z_size) + [channels]
    z = _range_decode(z_strings, _channel_index(tf.zeros(shape)), model.tables.z) + model.medians
    y = tf.zeros([len(y_strings)] + list(y_size) + [channels])
    mu, sigma = model.hyper_synthesis(z, y)
    return _range_decode(y_strings, _sigma_index(sigma), model.tables.y) + mu


def pack(arrays):
    """The bytes of a file, from the values of what `encode` returns."""
    packed = tfc.PackedTensors()
    packed.pack(_PLACES, arrays)
    return packed.string


def unpack(path):
    """The parts of a file as NumPy arrays.

    Raises:
      InputError: not such a file.
    """
    packed = tfc.PackedTensors()
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # protobuf's, of bytes that are no message
            packed.string = file.read()
        parts = packed.unpack(_PLACES)
    except OSError as error:
        raise InputError("{}: {}".format(path, error.strerror))
    except Exception:  # protobuf's DecodeError, which has moved between its versions
        raise InputError("{}: not a .tfci file".format(path))
    y_strings, z_strings, size, y_size, z_size = parts
    if (
        not 0 < len(y_strings) == len(z_strings)
        or any(len(part) != 2 for part in parts[2:])
        or not all(0 < side <= MAX_SIDE for side in size)
        or list(y_size) != [-(-side // 16) for side in size]
        or list(z_size) != [-(-side // 4) for side in y_size]
    ):
        raise InputError("{}: not a .tfci file of this codec".format(path))
    return parts


class _Place(collections.namedtuple("Place", "dtype")):
    """What `tfc.PackedTensors` asks of a tensor: its type."""


_PLACES = [_Place(tf.string)] * 2 + [_Place(tf.int32)] * 3


def _range_encode(symbols, indexes, tables):
    return tf.stack(
        [
            tfc.unbounded_index_range_encode(s, i, *tables, precision=16, overflow_width=4)
            for s, i in zip(tf.unstack(symbols), tf.unstack(indexes))
        ]
    )


def _range_decode(strings, indexes, tables):
    symbols = [
        tfc.unbounded_index_range_decode(s, i, *tables, precision=16, overflow_width=4)
        for s, i in zip(strings, tf.unstack(indexes))
    ]
    return tf.reshape(tf.cast(tf.stack(symbols), tf.float32), indexes.shape)


def _sigma_index(sigma):
    """Index of the smallest sigma of the table that is not below `sigma`."""
    table = tf.constant(entropy_models.SCALE_TABLE[:-1], tf.float32)
    index = tf.searchsorted(table, tf.reshape(sigma, [-1]))
    return tf.reshape(index, sigma.shape)


def _channel_index(z):
    return tf.broadcast_to(tf.range(z.shape.as_list()[-1]), z.shape)
