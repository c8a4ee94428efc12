"""Runs a script on one image after another, in one process.

    python -m study.serve sga --checkpoint_dir checkpoints compress <runname> image [flags]

takes the command line of `<script>.py compress`. It then reads lines of JSON from stdin, [image,
result], two paths; writes the result of the image, as the script would, to the other path; and
answers with an empty line on stdout. Graph and weights are made once, so the images have to be of
one size. Each image has a compressed file of its own. On invalid input the process ends as the
script does: with one line on stderr, and exit code 2.

`study.execution` starts such processes. One that nobody asks anything of ends by itself.
"""

import argparse
import json
import os
import select
import sys

import tf_boilerplate
import utils
from coding import container
from inference import choice, evaluation
from inference.methods import find_method
from model import checkpoints
from runtime import errors, signals
from runtime.quiet_tf import enough_memory

PATIENCE = 60  # seconds without a request, after which the process ends


def main(script, *argv):
    method_class = find_method(script)
    # Whatever a method prints is not taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    args = tf_boilerplate.parse(script, "", method_class, None, argv)
    with signals.command(script + ".py"):
        evaluator = built = None
        for image, result in requests():
            images = utils.Images(image)
            with errors.naming(image):
                container.check_size(*images.shape[:3])
            # A file is coded, though not kept.
            own = argparse.Namespace(**{**vars(args), "output": "compressed.tfci"})
            run, aim = choice.prepare(method_class, own, images)
            wanted = run, own, aim.target, aim.region and aim.region.sha256
            if built != wanted:
                weights = checkpoints.load(method_class.model_class, run)
                evaluator = evaluation.Evaluator(method_class, weights, own, aim)
                built = wanted
            writer = method_class.coder(run, weights, own)
            with enough_memory(image, "smaller images need less"):
                evaluated = evaluator.evaluate(writer, image, images.batches(1))
            if evaluator.missed is not None:
                choice.explain(evaluator.missed, aim.target, run, method_class, own, images)
            values = {**method_class.provenance(run, images, own), **method_class.settings(own)}
            utils.write_result(result, {**values, **evaluated.records, **evaluated.results})
            print(file=answers, flush=True)


def requests():
    """Yields what lines on stdin say, until they end or `PATIENCE` does."""
    while select.select([sys.stdin], [], [], PATIENCE)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        yield json.loads(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
