"""Readers of whole files, which decode the latents and pixels of each image."""

import abc
import contextlib

import utils
from coding import container, decoding, integer_model, tfci
from coding.bits_back_codec import read_side_information
from coding.grid_codec import spacing
from coding.stack import words_of
from model import device, hyperprior
from model.hyperprior import Mbt2018, Mbt2018BB
from runtime import console
from runtime.errors import InputError
from runtime.quiet_tf import tf


def read(content):
    """Returns a `Reader` for a file's bytes.

    Raises:
      InputError: the bytes are not a file of a known format.
    """
    if container.is_container(content) or not content:
        header, payloads = container.read(content)
        return (BitsBackReader if header.bits_back else GridReader)(header, payloads)
    if container.is_packed(content):
        return PackedReader(content)
    raise InputError("not a compressed file" + container.what_it_is(content))


class Reader(abc.ABC):
    """Reads one file.

    Attributes:
      model_class: class of the model that the file was made with.
      images, height, width: number of images; their height and width in pixels.
      has_side_info: whether the file holds side information.
      spacing: of the grid of y, in units of which `latents` returns y.
    """

    model_class = Mbt2018
    has_side_info = False
    spacing = 1.0

    @abc.abstractmethod
    def latents(self, run, weights):
        """Yields the number and the latents, as in `writers.Coded`, of each image.

        Args:
          run, weights: the model's `checkpoints.Run`, and its weights from `checkpoints.load`.

        Raises:
          InputError: the file is damaged or was made with another model.
        """

    def pictures(self, run, weights):
        """Yields the number and the pixels, uint8 (H, W, 3), of each image; see `latents`."""
        size = (self.height, self.width)
        with tf.Graph().as_default(), tf.Session() as session:
            model = hyperprior.build(self.model_class, weights, step=self.spacing)
            y_size, _ = container.latent_sizes(*size)
            y = tf.placeholder(tf.float32, (1, *y_size, run.num_filters))
            pixels = utils.to_uint8(model.synthesis(y, size))
            for number, latents in self.latents(run, weights):
                try:
                    yield number, session.run(pixels, {y: latents["y"][None]})[0]
                except tf.errors.ResourceExhaustedError:
                    line = "images of {} x {} pixels do not fit in memory"
                    raise InputError(line.format(self.width, self.height))


class _ContainerReader(Reader):
    def __init__(self, header, payloads):
        self.images, self.height, self.width = header.images, header.height, header.width
        self._header = header
        self._words = [words_of(payload) for payload in payloads]

    def _decoder(self, run):
        decoder = integer_model.load(run, self._header.bits_back is not None)
        decoder.check(self._header, run.checkpoint)
        return decoder


class GridReader(_ContainerReader):
    """Reads the files of `GridWriter`."""

    def __init__(self, header, payloads):
        super().__init__(header, payloads)
        self.spacing = spacing(header.step)

    def latents(self, run, weights):
        return decoding.grid_latents(self._decoder(run), self._header, self._words)


class BitsBackReader(_ContainerReader):
    """Reads the files of `BitsBackWriter`, the last image first.

    Attributes:
      side_info: bytes, set once all images have been read; None if there is none.
    """

    model_class = Mbt2018BB

    def __init__(self, header, payloads):
        super().__init__(header, payloads)
        self.has_side_info = header.bits_back.side_info is not None
        self.side_info = None

    def latents(self, run, weights):
        stack = yield from decoding.archive_latents(
            self._decoder(run), self._header, self._words[0], self._shown
        )
        if self.has_side_info:
            settings = self._header.bits_back
            self.side_info = read_side_information(stack, settings.side_info, settings.seed)

    @contextlib.contextmanager
    def _shown(self, number):
        title = "q(z|y) of image {} of {}".format(number + 1, self.images)
        its = self._header.bits_back.posterior.its
        with console.Progress(max(its, 1), title=title) as progress:
            yield lambda done, _: progress.update(done)


class PackedReader(Reader):
    """Reads the `.tfci` files of the reference implementation and of `PackedWriter`."""

    def __init__(self, content):
        self._y_strings, self._z_strings, (self.height, self.width) = tfci.unpack(content)
        self.images = len(self._y_strings)

    def latents(self, run, weights):
        with tf.Graph().as_default(), device.on_cpu(), tf.Session(
            config=device.cpu_config()
        ) as session:
            model = tfci.bounded_model(weights)
            tables = tfci.read_range_coder_tables(run)
            strings = [tf.placeholder(tf.string, ()) for _ in range(2)]
            y, z = tfci.decode(model, tables, *strings, (self.height, self.width))
            for number, values in enumerate(zip(self._y_strings, self._z_strings)):
                decoded = session.run({"y": y, "z": z}, dict(zip(strings, values)))
                yield number, {key: value[0] for key, value in decoded.items()}
