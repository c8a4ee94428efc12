"""The nine methods in the plain manner, on the graph of `plain.py`.

    python tests/oracle.py

writes data/expected.json: what they make of the images and the small models in data/. Values are
fed and gradients fetched each step; relaxations, their derivatives and Adam are NumPy. Of the
project only random numbers are repeated here, so that single runs can be compared: they depend
on the seed, the image, the step and a name (`inference/noise.py`, `coding/exact_posterior.py`).
"""

import hashlib
import json
import os
import sys
import zlib

import numpy as np
import scipy.stats
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import plain  # noqa: E402

from runtime.quiet_tf import tf, tfc  # noqa: E402

DATA = os.path.join(HERE, "data")
LMBDA = 0.002  # less than the models were trained for: their rate is low, and here it counts
RECORD_EVERY = 10

# Short runs, whose temperatures fall all the same; the learning rates make them move.
ANNEALED = {"lr": 0.02, "t0": 10, "annealing_rate": 0.05}
OTHER_ADAM = {"adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6}
SETTINGS = {
    "mbt2018": {},
    "sga": {"sga_its": 50, **ANNEALED},
    "map": {"sga_its": 100, "lr": 0.02, "check_every": 5},
    "ste": {"sga_its": 100, "lr": 0.002, "check_every": 5},
    "unoise": {"sga_its": 50, "lr": 0.02, **OTHER_ADAM},
    "danneal": {"sga_its": 50, "lr": 0.02, "annealing_rate": 0.05},
    "bb_sga": {"sga_its": 50, **ANNEALED, "r_its": 30, "r_lr": 0.01},
    "bb_no_sga": {"sga_its": 50, "lr": 0.02, **OTHER_ADAM},
    "bb_plain": {},
}
CENTRED = ("mbt2018", "map", "unoise")
BITS_BACK = ("bb_sga", "bb_no_sga", "bb_plain")


# --- The model ---------------------------------------------------------------------------------


class Model:
    """A trained model of N = 8 around images uint8 (N, H, W, 3), by values.

    Args:
      checkpoint: its path.
      bounded: whether sigma is bounded below, as in training.
    """

    def __init__(self, checkpoint, pixels, lmbda, bits_back, bounded=False):
        self.pixels, self.bits_back = pixels, bits_back
        number, height, width = pixels.shape[:3]
        sizes = [-(-height // 16), -(-width // 16)]
        with tf.Graph().as_default():
            self.x = tf.constant(pixels / np.float32(255))
            layers = plain.Plain(8, bits_back)
            self.y = tf.placeholder(tf.float32, (number, *sizes, 8))
            self.z = tf.placeholder(tf.float32, (number, *(-(-size // 4) for size in sizes), 8))
            parts = layers.run(self.x, self.y, self.z)
            self.start, self.h_a, self.mu = parts["y"], parts["h_a"], parts["mu"]
            # Not through the layer: there a likelihood below the bound would have no gradient.
            p_y = parts["p_y_bounded"] if bounded else parts["p_y_unbounded"]
            if bits_back:
                bottleneck = tfc.EntropyBottleneck()
                bottleneck(self.z, training=True)
            else:
                bottleneck = layers.bottleneck
            p_z = self._density(bottleneck) if bits_back else bottleneck._likelihood(self.z)
            self.bpp = {
                name + "_bpp": -tf.reduce_sum(tf.log(tfc.lower_bound(p, 1e-9)), axis=(1, 2, 3))
                / (np.log(2) * height * width)
                for name, p in (("y", p_y), ("z", p_z))
            }
            self.x_tilde = parts["x_tilde"]
            error = tf.squared_difference(self.x, self.x_tilde)
            self.mse = 255.0**2 * tf.reduce_mean(error, axis=(1, 2, 3))
            self.rate = tf.reduce_mean(sum(self.bpp.values()))
            self.loss = lmbda * tf.reduce_mean(self.mse) + self.rate
            self.gradients = tf.gradients(self.loss, [self.y, self.z])
            self.rate_gradient = tf.gradients(self.rate, self.z)[0]
            self.shown = tf.placeholder(tf.uint8, pixels.shape)
            if min(height, width) >= 161:
                self.msssim = tf.image.ssim_multiscale(tf.constant(pixels), self.shown, 255)
            else:
                self.msssim = tf.fill((number,), np.nan)
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())
            scope = "entropy_bottleneck/"
            names = {
                v.op.name.replace(scope, "") if bits_back else v.op.name: v
                for v in tf.global_variables()
                if "cdf" not in v.op.name and not (bits_back and "quantiles" in v.op.name)
            }
            tf.train.Saver(names).restore(self.session, checkpoint)
            self.medians = None
            if not bits_back:
                quantiles = tf.train.load_variable(checkpoint, scope + "quantiles")
                self.medians = quantiles[:, 0, 1]

    def _density(self, bottleneck):
        """The derivative of TFC's distribution function, by TensorFlow."""
        channels_first = tf.transpose(self.z, (3, 0, 1, 2))
        flat = tf.reshape(channels_first, (8, 1, -1))
        logits = bottleneck._logits_cumulative(flat, stop_gradient=False)
        return tf.gradients(tf.sigmoid(logits), self.z)[0]

    def run(self, fetches, y, z=None):
        """Values of tensors of this graph."""
        z = np.zeros(self.z.shape.as_list(), np.float32) if z is None else z
        return self.session.run(fetches, {self.y: y, self.z: z})


# --- Random numbers ------------------------------------------------------------------------------


class Noise:
    """Those of `inference/noise.py`, for images and a seed."""

    def __init__(self, pixels, seed):
        self.keys = []
        for image in pixels:
            content = "{} {} ".format(seed, image.shape).encode() + image.tobytes()
            digest = hashlib.sha256(content).digest()[:8]
            self.keys.append(int.from_bytes(digest, "little", signed=True))
        self.samplers = {}

    def __call__(self, kind, t, name, shape):
        if (kind, shape) not in self.samplers:
            with tf.Graph().as_default():
                seed = tf.placeholder(tf.int64, (2,))
                sampler = getattr(tf.random, "stateless_" + kind)(shape[1:], seed)
                session = tf.Session()
            self.samplers[kind, shape] = lambda pair: session.run(sampler, {seed: pair})
        draw = self.samplers[kind, shape]
        step = t * 2**32 + zlib.crc32(name.encode())
        return np.stack([draw([key, step]) for key in self.keys])


def posterior_noise(y, seed, t, shape):
    """Normal numbers with which q(z|y) is fitted: y of one image, integers."""
    content = "{} {} ".format(seed, y.shape).encode() + y.astype("<i8").tobytes()
    key = int.from_bytes(hashlib.sha256(content).digest()[:16], "little")
    size = int(np.prod(shape))
    raw = np.random.Philox(key=key, counter=t << 128).random_raw(-(-size // 4))
    index = raw.astype("<u8").view("<u2")[:size].reshape(shape)
    return scipy.stats.norm.ppf((index + 0.5) / 2**16)


# --- Relaxations: values, and their derivatives -----------------------------------------------


def logit(v, tau):
    """Of rounding down, and its derivative."""
    down, up = v - np.floor(v), np.ceil(v) - v
    clipped = [np.clip(d, -1 + 1e-5, 1 - 1e-5) for d in (down, up)]
    value = (np.arctanh(clipped[1]) - np.arctanh(clipped[0])) / tau
    slopes = [np.where(c == d, 1 / (1 - c**2), 0) for c, d in zip(clipped, (down, up))]
    return value, -(slopes[0] + slopes[1]) / tau


def averaged(v, argument, slope):
    weight = 1 / (1 + np.exp(-np.clip(argument, -700, 700)))
    value = weight * np.floor(v) + (1 - weight) * np.ceil(v)
    return value, weight * (1 - weight) * slope * (np.floor(v) - np.ceil(v))


def temperature(script, t, settings):
    if script == "danneal":
        return np.clip(np.exp(-settings["annealing_rate"] * t), 1e-8, 0.2)
    return np.clip(0.5 * np.exp(-settings["annealing_rate"] * (t - settings["t0"])), 1e-8, 0.5)


def relax(script, v, t, settings, uniform):
    v = v.astype(np.float64)
    if script == "map":
        return v, 1.0
    if script == "ste":
        return np.round(v), 1.0
    if script == "unoise":
        return v + uniform() - 0.5, 1.0
    tau = temperature(script, t, settings)
    value, slope = logit(v, tau)
    if script == "danneal":
        return averaged(v, value, slope)
    u = np.clip(uniform().astype(np.float64), 1e-30, 1 - 2.0**-24)
    return averaged(v, (value + np.log(u) - np.log1p(-u)) / tau, slope / tau)


def centred(v, centre):
    return np.floor(v - centre + 0.5) + centre


class Adam:
    def __init__(self, lr, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, **_):
        self.lr, self.betas, self.epsilon = lr, (adam_beta1, adam_beta2), adam_epsilon
        self.t, self.moments = 0, {}

    def step(self, values, gradients):
        self.t += 1
        b1, b2 = self.betas
        rate = self.lr * np.sqrt(1 - b2**self.t) / (1 - b1**self.t)
        for name, g in gradients.items():
            m, v = self.moments.get(name, (0, 0))
            self.moments[name] = m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            values[name] = values[name] - rate * m / (np.sqrt(v) + self.epsilon)


# --- Methods -------------------------------------------------------------------------------------


class Run:
    """A method on images; `result` is what `expected.json` has.

    Args:
      script: its name.
      checkpoint: path of a model of N = 8.
      pixels: uint8 (N, H, W, 3), optimised together.
      **settings: in place of those of `SETTINGS`.
    """

    def __init__(self, script, checkpoint, pixels, lmbda=LMBDA, seed=0, **settings):
        self.script, self.seed = script, seed
        self.settings = {**SETTINGS[script], **settings}
        self.model = Model(
            checkpoint, pixels, lmbda, script in BITS_BACK, bounded=script == "mbt2018"
        )
        self.noise = Noise(pixels, seed)
        self.record = {}
        y = self.model.session.run(self.model.start)
        if script in BITS_BACK:
            self.latents = self._bits_back(y)
        else:
            values = {"y": y, "z": self.model.run(self.model.h_a, y)}
            if script != "mbt2018":
                values = self._optimised(values)
            self.latents = self._rounded(**values)
        self.result = self._measured(**self.latents)

    def _rounded(self, y, z):
        if self.script not in CENTRED:
            return {"y": np.round(y), "z": np.round(z)}
        z = centred(z, self.model.medians)
        return {"y": centred(y, self.model.run(self.model.mu, y, z)), "z": z}

    def _uniform(self, t, name, value):
        return lambda: self.noise("uniform", t, name, value.shape)

    def _optimised(self, values):
        adam = Adam(**self.settings)
        every = self.settings.get("check_every")
        last = remembered = None
        for t in range(self.settings["sga_its"]):
            relaxed, slopes = {}, {}
            for name, value in values.items():
                uniform = self._uniform(t, name, value)
                relaxed[name], slopes[name] = relax(self.script, value, t, self.settings, uniform)
            loss, gradients = self.model.run([self.model.loss, self.model.gradients], **relaxed)
            adam.step(values, {n: g * slopes[n] for n, g in zip("yz", gradients)})
            final = t == self.settings["sga_its"] - 1
            if t % RECORD_EVERY == 0 or final:
                self.record[t] = float(loss)
            if every and (t % every == 0 or final):
                if self.script == "map":
                    loss = self.model.run(self.model.loss, **self._rounded(**values))
                worse = last is not None and (
                    loss > last or (self.script == "ste" and loss == last)
                )
                if worse:
                    self.stopped = t
                    return remembered
                last, remembered = loss, dict(values)
        self.stopped = t
        return values

    def _bits_back(self, y):
        values = {"y": y}
        if self.script == "bb_sga":
            z_mean, z_logvar = np.split(self.model.run(self.model.h_a, y), 2, axis=-1)
            values = self._sga_with_samples({"y": y, "z_mean": z_mean, "z_logvar": z_logvar})
        y = np.round(values["y"])
        mean, logvar = np.split(self.model.run(self.model.h_a, y), 2, axis=-1)
        its, lr = {"bb_sga": ("r_its", "r_lr"), "bb_no_sga": ("sga_its", "lr")}.get(
            self.script, (None, None)
        )
        q = {"mean": mean, "logvar": logvar}
        adam = Adam(**{**self.settings, "lr": self.settings.get(lr)})
        for t in range(self.settings.get(its, 0)):
            normal = np.stack([posterior_noise(v, self.seed, t, mean.shape[1:]) for v in y])
            deviation = np.exp(0.5 * q["logvar"]) * normal
            g = self.model.run(self.model.rate_gradient, y, q["mean"] + deviation)
            adam.step(q, self._of_q(g, deviation))
        normal = self.noise("normal", 0, "z sent", mean.shape)
        z = q["mean"] + np.exp(0.5 * q["logvar"]) * normal
        return {"y": y, "z": z, "z_mean": q["mean"], "z_logvar": q["logvar"]}

    def _of_q(self, g, deviation):
        """Gradients in mean and log-variance, of which the bits that q gives back are part."""
        pixels = self.model.pixels.size / 3
        return {"mean": g, "logvar": 0.5 * g * deviation - 0.5 / (np.log(2) * pixels)}

    def _sga_with_samples(self, values):
        adam = Adam(**self.settings)
        for t in range(self.settings["sga_its"]):
            uniform = self._uniform(t, "y", values["y"])
            y, slope = relax("sga", values["y"], t, self.settings, uniform)
            normal = self.noise("normal", t, "z", values["z_mean"].shape)
            deviation = np.exp(0.5 * values["z_logvar"]) * normal
            z = values["z_mean"] + deviation
            loss, (g_y, g_z) = self.model.run([self.model.loss, self.model.gradients], y, z)
            if t % RECORD_EVERY == 0 or t == self.settings["sga_its"] - 1:
                back = self._bits_of_q(z, values["z_mean"], values["z_logvar"])
                self.record[t] = float(loss - np.mean(back))
            q = self._of_q(g_z, deviation)
            adam.step(values, {"y": g_y * slope, "z_mean": q["mean"], "z_logvar": q["logvar"]})
        return values

    def _bits_of_q(self, z, z_mean, z_logvar):
        """-log2 q(z|y) per pixel, of each image."""
        log_q = scipy.stats.norm.logpdf(z, z_mean, np.exp(0.5 * z_logvar))
        height, width = self.model.pixels.shape[1:3]
        return -log_q.sum(axis=(1, 2, 3)) / (np.log(2) * height * width)

    def _measured(self, y, z, **q):
        model = self.model
        x_tilde, rates = model.run([model.x_tilde, model.bpp], y, z)
        shown = np.round(np.clip(x_tilde, 0, 1) * 255).astype(np.uint8)
        mse = np.mean((shown - model.pixels.astype(np.float64)) ** 2, axis=(1, 2, 3))
        bpp = rates["y_bpp"] + rates["z_bpp"]
        result = {"est_" + key: value for key, value in rates.items()}
        if q:
            result["est_bpp_back"] = self._bits_of_q(z, **q)
            bpp = bpp - result["est_bpp_back"]
        result["msssim"] = model.session.run(model.msssim, {model.shown: shown})
        result.update(est_bpp=bpp, mse=mse, psnr=10 * np.log10(255**2 / mse))
        result = {key: [float("{:.7g}".format(v)) for v in result[key]] for key in sorted(result)}
        if np.isnan(result["msssim"]).any():
            del result["msssim"]
        if self.record:
            result["rd_loss"] = {t: float("{:.7g}".format(v)) for t, v in self.record.items()}
        if hasattr(self, "stopped"):
            result["stopped"] = self.stopped
        return result


# --- The numbers that ship -----------------------------------------------------------------------


def write_models(folder):
    """The models in data/ as run folders; and the base one again with its sigma much lower."""
    for name in ("mbt2018", "mbt2018_bb"):
        with np.load(os.path.join(DATA, name + ".npz")) as weights:
            weights = dict(weights)
        _write_checkpoint(os.path.join(folder, name + "-num_filters=8-lmbda=0.02"), weights)
        if name == "mbt2018":
            bias = weights["mb_t2018hyper_synthesis_transform/layer_2/bias"]
            bias[len(bias) // 2 :] -= 3
            _write_checkpoint(
                os.path.join(folder, name + "-num_filters=8-lmbda=0.02-sharp"), weights
            )


def _write_checkpoint(folder, weights):
    os.makedirs(folder)
    with tf.Graph().as_default(), tf.Session() as session:
        feeds = {}
        variables = []
        for name, value in weights.items():
            variables.append(tf.get_variable(name, value.shape, value.dtype, trainable=False))
            feeds[variables[-1].initializer.inputs[1]] = value
        session.run([v.initializer for v in variables], feeds)
        saver = tf.train.Saver(variables, save_relative_paths=True)
        saver.save(session, os.path.join(folder, "model.ckpt"), 1, write_meta_graph=False)


def read_images(path):
    """uint8 (N, H, W, 3)."""
    if path.endswith(".npy"):
        return np.load(path)
    return np.asarray(Image.open(path).convert("RGB"))[None]


# script, input, whether the model is the sharp one
CASES = [(script, "odd.png", False) for script in SETTINGS]
CASES += [(script, "two.npy", False) for script in ("mbt2018", "ste", "map")]
CASES += [(script, "odd.png", True) for script in ("mbt2018", "sga")]


def key(script, image, sharp):
    return " ".join([script, image] + ["sharp"] * sharp)


def main(folder):
    write_models(folder)
    numbers = {}
    for script, image, sharp in CASES:
        model = "mbt2018_bb" if script in BITS_BACK else "mbt2018"
        name = model + "-num_filters=8-lmbda=0.02" + "-sharp" * sharp
        checkpoint = tf.train.latest_checkpoint(os.path.join(folder, name))
        result = Run(script, checkpoint, read_images(os.path.join(DATA, image))).result
        numbers[key(script, image, sharp)] = result
        print(key(script, image, sharp), result["est_bpp"], result["psnr"], flush=True)
    with open(os.path.join(DATA, "expected.json"), "w") as file:
        json.dump(numbers, file, indent=1, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        main(scratch)
