"""The `.tfci` files of the base codec: `tfc.PackedTensors` of range-coded latents.

    1  strings of y, one per image     3  height and width of the images
    2  strings of z, one per image     4  height and width of y     5  of z

y is coded with the Gaussian table of the smallest sigma that is not below its own, z with its
channel's table; both kinds of tables are in the checkpoint. Symbols are offsets from the centre of
the grid, mu or the medians. The coder is TFC's, with the parameters of `tfc.EntropyBottleneck` and
`tfc.GaussianConditional` (1.3).
"""

import collections
import warnings

import numpy as np
from scipy import special

from coding import container
from model import checkpoints, entropy_models, hyperprior
from runtime.errors import InputError
from runtime.quiet_tf import tf

Tables = collections.namedtuple("Tables", "cdf length offset")
Tables.__doc__ = """Probability tables of the range coder, int32.

cdf: (tables, longest + 2), quantised to 16 bits; length: (tables,), number of entries in use;
offset: (tables,), the first symbol of each.
"""

TablesOfLatents = collections.namedtuple("TablesOfLatents", "y z")
TablesOfLatents.__doc__ = (
    "`Tables` of y, one per sigma of `entropy_models.SCALE_TABLE`, and of z, one per channel."
)


UNUSED_TABLES = {"quantized_cdf": (64, 1481), "cdf_length": (64,)}  # as those of TFC


def make_range_coder_tables():
    """Creates TFC's `gaussian_conditional/…` variables, which checkpoints hold for the coder.

    Without TFC, which only the base model's training needs, they hold zeros: nothing reads the
    tables of a bits-back model.
    """
    try:
        from runtime.quiet_tf import tfc
    except InputError:
        with tf.variable_scope("gaussian_conditional"):
            for name, shape in UNUSED_TABLES.items():
                zeros = tf.zeros(shape, tf.int32)
                tf.get_variable(name, initializer=zeros, trainable=False)
        return

    dummy = tf.ones((1, 1, 1, 1))
    tfc.GaussianConditional(dummy, entropy_models.SCALE_TABLE)(dummy, training=False)


def read_range_coder_tables(run):
    """Reads `TablesOfLatents` from the checkpoint of a base model's `checkpoints.Run`.

    Offsets are computed as in TFC's layers.

    Raises:
      InputError: the checkpoint is damaged.
    """
    with checkpoints.reading(run.checkpoint):
        return _tables(tf.train.load_checkpoint(run.checkpoint))


def _tables(reader):
    lower, median, _ = reader.get_tensor("entropy_bottleneck/quantiles")[:, 0, :].T
    tail = -special.ndtri(2.0**-9)  # TFC's default tail_mass, 2**-8, covers both tails

    def tables(scope, first_symbol):
        cdf = reader.get_tensor(scope + "/quantized_cdf")
        return Tables(cdf, reader.get_tensor(scope + "/cdf_length"), first_symbol.astype(np.int32))

    return TablesOfLatents(
        y=tables("gaussian_conditional", -np.ceil(entropy_models.SCALE_TABLE * tail)),
        z=tables("entropy_bottleneck", -np.maximum(np.ceil(median - lower), 0)),
    )


def bounded_model(weights):
    """The base model of the authors' coder, with sigma bounded below, from loaded weights."""
    return hyperprior.build(hyperprior.Mbt2018, weights, sigma_min=entropy_models.SIGMA_MIN)


def encode(model, tables, y, z):
    """Encodes one image's y and z; returns their strings, tensors.

    Args:
      model: from `bounded_model`.
      tables: `TablesOfLatents`.
      y, z: latents (1, h, w, C) on the model's grids (`round_centred`).
    """
    mu, sigma = model.hyper_synthesis(z, y)
    y_symbols = tf.cast(tf.math.round(y - mu), tf.int32)
    z_symbols = tf.cast(tf.math.round(z - model.medians), tf.int32)
    return (
        _range_encode(y_symbols, _sigma_index(sigma), tables.y),
        _range_encode(z_symbols, _channel_index(z), tables.z),
    )


def decode(model, tables, y_string, z_string, size):
    """Decodes one image of `size` (H, W); returns its y and z, (1, h, w, C) tensors."""
    channels = tables.z.length.shape[0]
    y_size, z_size = container.latent_sizes(*size)
    z_index = _channel_index(tf.zeros((1, *z_size, channels)))
    z = _range_decode(z_string, z_index, tables.z) + model.medians
    mu, sigma = model.hyper_synthesis(z, tf.zeros((1, *y_size, channels)))
    return _range_decode(y_string, _sigma_index(sigma), tables.y) + mu, z


def pack(y_strings, z_strings, size):
    """Packs the strings of images of `size` (H, W) into the bytes of a file."""
    from runtime.quiet_tf import tfc

    packed = tfc.PackedTensors()
    strings = [np.array(part, object) for part in (y_strings, z_strings)]
    sizes = [np.array(part) for part in (size, *container.latent_sizes(*size))]
    packed.pack(_PLACES, strings + sizes)
    return packed.string


def unpack(content):
    """Unpacks a file's bytes into the strings of y and of z, and the images' (H, W).

    Raises:
      InputError: the file is damaged or of another format.
    """
    from runtime.quiet_tf import tfc

    packed = tfc.PackedTensors()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # protobuf warns of bytes that are not a message
            packed.string = content
        y_strings, z_strings, *sizes = packed.unpack(_PLACES)
    except Exception:  # protobuf's DecodeError, which has moved between its versions
        raise InputError("not a compressed file, or one that is damaged or cut short")
    size, y_size, z_size = ([int(side) for side in part] for part in sizes)
    if (
        not 0 < len(y_strings) == len(z_strings)
        or len(size) != 2
        or [tuple(y_size), tuple(z_size)] != list(container.latent_sizes(*size))
    ):
        raise InputError("not a compressed file of this codec")
    container.check_size(len(y_strings), *size)
    return y_strings, z_strings, size


class _Place(collections.namedtuple("Place", "dtype")):
    """A stand-in for a tensor, of which `tfc.PackedTensors` reads only the type."""


_PLACES = [_Place(tf.string)] * 2 + [_Place(tf.int32)] * 3


def _range_encode(symbols, indexes, tables):
    from runtime.quiet_tf import tfc

    return tfc.unbounded_index_range_encode(
        symbols[0], indexes[0], *tables, precision=16, overflow_width=4
    )


def _range_decode(string, indexes, tables):
    from runtime.quiet_tf import tfc

    symbols = tfc.unbounded_index_range_decode(
        string, indexes[0], *tables, precision=16, overflow_width=4
    )
    return tf.reshape(tf.cast(symbols, tf.float32), indexes.shape)


def _sigma_index(sigma):
    """The index of the smallest sigma in the table that is not below `sigma`."""
    table = tf.constant(entropy_models.SCALE_TABLE[:-1], tf.float32)
    index = tf.searchsorted(table, tf.reshape(sigma, [-1]))
    return tf.reshape(index, sigma.shape)


def _channel_index(z):
    return tf.broadcast_to(tf.range(z.shape.as_list()[-1]), z.shape)
