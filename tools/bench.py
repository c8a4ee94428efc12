"""Compares speed and memory with a baseline implementation: `make bench`.

The baseline works like the reference: TensorFlow Compression's own layers, latents and noise fed in
each step, gradients fetched, Adam in NumPy (`tests/plain.py`). Each runs in its own process, as a
user would start it, and the two take turns.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time

from inference import scripts

# --- Processes that take turns ---------------------------------------------------------------


class Worker:
    """A process that calls `make(*args)` once, and the function that this returns in each turn.

    Args:
      make: function of this module that returns a function without arguments.
      allocator: whether TensorFlow keeps freed memory for reuse, as `quiet_tf` sets it.
    """

    def __init__(self, make, *args, allocator=True):
        os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = str(allocator).lower()
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, make, args), daemon=True)
        self.process.start()
        theirs.close()  # so that `recv` fails if the process does
        self.pipe.recv()

    def turn(self, repetitions=1):
        """Times `repetitions` runs; returns the milliseconds of each."""
        self.pipe.send(repetitions)
        return self.pipe.recv()

    def close(self):
        self.process.terminate()
        self.process.join()


def _work(pipe, make, args):
    run = make(*args)
    run()
    pipe.send(None)
    while True:
        times = []
        for _ in range(pipe.recv()):
            begun = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - begun))
        pipe.send(times)


@contextlib.contextmanager
def workers(*made):
    try:
        yield made
    finally:
        for worker in made:
            worker.close()


def take_turns(made, turns, repetitions):
    """Lets the workers run in turn; returns the median milliseconds of each."""
    times = [[] for _ in made]
    for _ in range(turns):
        for worker, record in zip(made, times):
            record.extend(worker.turn(repetitions))
    return [statistics.median(record) for record in times]


# --- Iterations ------------------------------------------------------------------------------

CASES = [(32, 512, 768), (64, 512, 768), (192, 512, 768), (192, 256, 256)]
MATRIX = 4096


def iteration_gflop(n, height, width):
    """GFLOP of an iteration of SGA: the synthesis transforms, and gradients of their inputs."""
    down = [(-(-height // 2**k), -(-width // 2**k)) for k in range(7)]
    area = [h * w for h, w in down]
    convolutions = [(area[4], 25, n, n), (area[3], 25, n, n), (area[2], 25, n, n)]
    convolutions += [(area[1], 25, n, 3), (area[6], 25, n, n), (area[5], 25, n, 1.5 * n)]
    convolutions += [(area[k], 1, n, n) for k in (3, 2, 1)]  # GDN
    convolutions += [(area[4], 9, 1.5 * n, 2 * n)]
    return sum(2 * 2 * a * taps * c * m for a, taps, c, m in convolutions) / 1e9


def untrained(folder, n, model="mbt2018"):
    """Makes a run folder of N = n with random weights; returns the run's name."""
    from PIL import Image

    run = "{}-num_filters={}-lmbda=0.01".format(model, n)
    if not os.path.isdir(os.path.join(folder, run)):
        image = os.path.join(folder, "black.png")
        Image.new("RGB", (64, 64)).save(image)
        flags = ("--train_glob", image, "--patchsize", 64, "--last_step", 0, "--logdir", "")
        scripts.run(model, "--checkpoint_dir", folder, "--num_filters", n, "train", *flags)
    return run


def photograph(height, width):
    """A sample photograph, tiled to (height, width)."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(os.path.join(scripts.ROOT, "samples", "chelsea.png")))
    rows, columns = -(-height // pixels.shape[0]), -(-width // pixels.shape[1])
    return np.tile(pixels, (rows, columns, 1))[:height, :width, :3]


def our_iteration(*args, **kwargs):
    """A function that runs an iteration of a script; arguments as for `prepared`."""
    session, update = prepared(*args, **kwargs)
    return session.make_callable(update)


def prepared(script, folder, run, height, width, images=1, flags=()):
    """A session, and the iteration of a script on a batch in it, with a model in `folder`."""
    import numpy as np

    from inference.evaluation import Evaluation
    from inference.methods import find_method
    from model import checkpoints
    from tf_boilerplate import parse

    method = find_method(script)
    args = parse(script, "", method, None, ["compress", run, "photograph", *flags])
    args.lmbda = 0.01
    weights = checkpoints.load(method.model_class, checkpoints.find_run(folder, run))
    pixels = np.stack([photograph(height, width)] * images)
    evaluation = Evaluation(method, weights, pixels.shape, args)
    evaluation.begin(pixels)
    (stage,) = evaluation.method.stages
    evaluation.session.run(stage.start)
    return evaluation.session, stage.update


def plain_iteration(name, folder, run, height, width):
    """A function that runs an iteration of the baseline `name`."""
    from tests import plain

    return getattr(plain, name)(os.path.join(folder, run), photograph(height, width)).step


def matrix_product():
    """A function that multiplies two square matrices of `MATRIX` rows."""
    from runtime.quiet_tf import tf

    value = tf.get_variable(
        "value", initializer=tf.random.normal((MATRIX, MATRIX)), use_resource=True
    )
    product = tf.matmul(value, value)
    session = tf.Session()
    session.run(value.initializer)
    return session.make_callable(product.op)


def bench_iterations(args):
    print("| N | image | baseline | here | ratio | GFLOP | GFLOP/s | of a matrix product |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for n, height, width in CASES:
            run = untrained(folder, n)
            where = (folder, run, height, width)
            with workers(
                Worker(plain_iteration, "SGA", *where, allocator=False),
                Worker(our_iteration, "sga", *where),
                Worker(matrix_product),
            ) as made:
                plain, ours, product = take_turns(made, args.turns, 1 if n > 64 else 5)
            gflop = iteration_gflop(n, height, width)
            rate = gflop / ours * 1e3
            share = rate / (2e-6 * MATRIX**3 / product)
            line = "| {} | {} × {} | {:.0f} ms | {:.0f} ms | {:.2f} | {:.1f} | {:.0f} | {:.0%} |"
            numbers = n, width, height, plain, ours, ours / plain, gflop, rate, share
            print(line.format(*numbers), flush=True)


OPERATIONS = {  # prefixes of TensorFlow's operations
    "convolutions": ("Conv2D",),
    "matrix products": ("MatMul", "BatchMatMul"),
    "copies": ("Concat", "Split", "Transpose", "Tile", "Gather", "Pad", "Slice", "StridedSlice"),
    "elementwise, sums": ("",),
}


def bench_operations(args):
    """Prints how the time of an iteration of sga.py is divided among kinds of operations."""
    from runtime.quiet_tf import tf

    options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    print("| N | image | {} |".format(" | ".join(OPERATIONS)))
    print("|---" * (2 + len(OPERATIONS)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for n, height, width in CASES:
            with tf.Graph().as_default():
                session, update = prepared("sga", folder, untrained(folder, n), height, width)
                session.run(update)
                times = dict.fromkeys(OPERATIONS, 0)
                for _ in range(args.turns):
                    trace = tf.RunMetadata()
                    session.run(update, options=options, run_metadata=trace)
                    for of_device in trace.step_stats.dev_stats:
                        for node in of_device.node_stats:
                            name = node.timeline_label.split(" = ")[-1]
                            kind = next(k for k in OPERATIONS if name.startswith(OPERATIONS[k]))
                            times[kind] += node.op_end_rel_micros - node.op_start_rel_micros
            shares = ("{:.0%}".format(times[k] / sum(times.values())) for k in OPERATIONS)
            print("| {} | {} × {} | {} |".format(n, width, height, " | ".join(shares)), flush=True)


# --- Batches ---------------------------------------------------------------------------------

BATCHES = [(32, 256, 384, 24), (64, 256, 384, 24)]


def bench_batches(args):
    """Prints milliseconds of an iteration of sga.py per image, alone and in a batch."""
    print("| N | image | alone | images | together, per image | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for n, height, width, images in BATCHES:
            where = (folder, untrained(folder, n), height, width)
            with workers(
                Worker(our_iteration, "sga", *where), Worker(our_iteration, "sga", *where, images)
            ) as made:
                alone, together = take_turns(made, args.turns, 3)
            line = "| {} | {} × {} | {:.1f} ms | {} | {:.1f} ms | {:.2f} |"
            each = together / images
            print(line.format(n, width, height, alone, images, each, each / alone), flush=True)


# --- Training --------------------------------------------------------------------------------

PLAIN = "tests.plain"
TRAININGS = [(32, 128), (64, 128), (192, 256)]
PHOTOGRAPHS = 8, 1500, 2000  # number, height and width of the training PNGs


def large_photographs(folder):
    """Writes large PNGs; returns a pattern that matches them."""
    from PIL import Image

    number, height, width = PHOTOGRAPHS
    for i in range(number):
        pixels = photograph(height + i, width)[i:]
        Image.fromarray(pixels).save(os.path.join(folder, "{}.png".format(i)))
    return os.path.join(folder, "*.png")


def training_step(module, n, patch, pattern):
    """A function that runs a training step; without a pattern, always on one batch in memory."""
    import importlib

    import numpy as np

    from runtime.quiet_tf import tf
    from training import cores, data

    if pattern:
        x = data.batches(data.find_images(pattern, patch), 8, patch, 16, seed=0)
    else:
        value = np.random.RandomState(0).uniform(0, 1, (8, patch, patch, 3)).astype(np.float32)
        x = tf.get_variable("x", initializer=value, trainable=False, use_resource=True).read_value()
    loss, _, bottleneck, *_ = importlib.import_module(module).training_graph(x, n, 0.01)
    train_op = [tf.train.AdamOptimizer(1e-4).minimize(loss)]
    train_op += [tf.train.AdamOptimizer(1e-3).minimize(bottleneck.losses[0]), *bottleneck.updates]
    config = cores.config(cores.parts(8))
    session = tf.Session(config=None if module == PLAIN else config)
    session.run(tf.global_variables_initializer())
    return session.make_callable(tf.group(*train_op))


def bench_training(args):
    """Prints training steps per second."""
    print("| N | patch | baseline, steps/s | here | ratio | time spent waiting for large PNGs |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        pattern = large_photographs(folder)
        for n, patch in TRAININGS:
            with workers(
                Worker(training_step, PLAIN, n, patch, "", allocator=False),
                Worker(training_step, "mbt2018", n, patch, ""),
                Worker(training_step, "mbt2018", n, patch, pattern),
            ) as made:
                plain, ours, fed = take_turns(made, args.turns, 1 if n > 64 else 10)
            line = "| {} | {} | {:.2f} | {:.2f} | {:.2f} | {:.0%} |"
            print(
                line.format(
                    n, patch, 1e3 / plain, 1e3 / ours, plain / ours, max(1 - ours / fed, 0)
                ),
                flush=True,
            )


# --- Second stage of bb_sga --------------------------------------------------------------------

SECOND_STAGES = [(32, 512, 768), (192, 512, 768)]


def exact_iteration(module, folder, run, height, width):
    """A function that runs an iteration of q(z|y) by the `Iterations` of a module of coding."""
    import importlib

    import numpy as np

    from coding import container, exact_posterior, integer_model
    from model import checkpoints

    decoder = integer_model.load(checkpoints.find_run(folder, run), bits_back=True)
    random = np.random.RandomState(0)
    size, _ = container.latent_sizes(height, width)
    y = random.normal(0, 1.5, (*size, len(decoder.medians))).round()
    q = decoder.hyper_analysis.forward(y)
    settings = container.Settings(1, 3e-3, 0.9, 0.999, 1e-8)
    scale = 1 / (height * width)
    iterations = importlib.import_module(module).Iterations(decoder, y, *q, scale, settings)
    normal = random.normal(0, 1, q[0].shape)
    rates = exact_posterior.adam_rates(settings)
    return lambda: iterations.run(normal, next(rates))


def bench_second_stage(args):
    """Prints milliseconds of an iteration of q(z|y) at fixed y."""
    print("| N | image | baseline | here | ratio | here by NumPy | --estimate_only |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for n, height, width in SECOND_STAGES:
            where = (folder, untrained(folder, n, "mbt2018_bb"), height, width)
            with workers(
                Worker(plain_iteration, "Fit", *where, allocator=False),
                Worker(exact_iteration, "coding.compiled", *where),
                Worker(exact_iteration, "coding.exact_posterior", *where),
                Worker(our_iteration, "bb_no_sga", *where, 1, ("--estimate_only",)),
            ) as made:
                times = take_turns(made, args.turns, 1 if n > 64 else 5)
            line = "| {} | {} × {} | {:.0f} ms | {:.0f} ms | {:.2f} | {:.0f} ms | {:.0f} ms |"
            ratio = times[1] / times[0]
            print(line.format(n, width, height, *times[:2], ratio, *times[2:]), flush=True)


# --- Start-up --------------------------------------------------------------------------------

STARTS = [32, 192]
FEW = 3  # iterations of the runs
ITERATIONS = ("--sga_its", str(FEW))
FLAGS = {"mbt2018": (), "bb_plain": (), "bb_sga": (*ITERATIONS, "--r_its", str(FEW))}  # by script


def bench_startup(args):
    """Prints the seconds of a run of sga.py besides its iterations at their usual speed."""
    print("| N | run of {} iterations | an iteration | beyond the iterations |".format(FEW))
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        image = saved_photograph(folder, 512, 768)
        for n in STARTS:
            run = untrained(folder, n)
            with workers(Worker(our_iteration, "sga", folder, run, 512, 768)) as made:
                records = [measured_run("sga", folder, run, image) for _ in range(args.turns)]
                iteration = take_turns(made, args.turns, 3)[0] / 1e3
            wall = statistics.median(seconds for seconds, _ in records)
            line = "| {} | {:.1f} s | {:.2f} s | {:.1f} s |"
            print(line.format(n, wall, iteration, wall - FEW * iteration), flush=True)


def saved_photograph(folder, height, width):
    """Writes a PNG; returns its path."""
    from PIL import Image

    path = os.path.join(folder, "image.png")
    Image.fromarray(photograph(height, width)).save(path)
    return path


def measured_run(script, folder, run, image):
    """Runs a script for a few iterations; returns its seconds and peak memory in bytes."""
    command = [sys.executable, os.path.join(scripts.ROOT, script + ".py")]
    command += ["--checkpoint_dir", folder, "compress", run, image, "--results_dir", ""]
    command += FLAGS.get(script, ITERATIONS)
    begun = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(1)  # the script has reported why
    return time.time() - begun, usage.ru_maxrss * 1024


# --- Memory ----------------------------------------------------------------------------------

MEMORY_SIZES = [(256, 256), (512, 768), (1024, 1024), (1536, 2048)]
LARGE = (3000, 4000)


def bench_memory(args):
    """Prints peak resident memory and seconds of runs of a few iterations."""
    print("| script | image | peak | run of {} iterations |".format(FEW))
    print("|---|---|---|---|")
    cases = [("mbt2018", "sga", *size) for size in MEMORY_SIZES]
    if args.large:
        cases += [(m, script, *LARGE) for m, found in scripts.MODELS.items() for script in found]
    with tempfile.TemporaryDirectory() as folder:
        for model, script, height, width in cases:
            image = saved_photograph(folder, height, width)
            run = untrained(folder, 192, model)
            seconds, peak = measured_run(script, folder, run, image)
            line = "| {}.py | {} × {} | {:.2f} GB | {:.1f} s |"
            print(line.format(script, width, height, peak / 1e9, seconds), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=[[], *BENCHES], help="benchmarks to run; default: all"
    )
    parser.add_argument("--turns", type=int, default=10, help="turns of each process (10)")
    parser.add_argument("--large", action="store_true", help="measure memory at 12 megapixels too")
    args = parser.parse_args()
    for name in args.what or BENCHES:
        BENCHES[name](args)


BENCHES = {
    "iterations": bench_iterations,
    "operations": bench_operations,
    "batches": bench_batches,
    "training": bench_training,
    "second_stage": bench_second_stage,
    "startup": bench_startup,
    "memory": bench_memory,
}

if __name__ == "__main__":
    main()
