"""Training by several workers: processes on one machine or on several, started by `horovodrun`.

Each worker draws its own patches; gradients are averaged over all workers, so that their weights
stay equal. Only the first worker accesses the run folder and prints. A process not started by
`horovodrun` is a single worker, for which the functions here change nothing.
"""

import contextlib
import os

from model import device
from runtime.errors import InputError
from runtime.quiet_tf import tf


def size():
    """Number of workers."""
    return int(os.environ.get("HOROVOD_SIZE", 1))


def rank():
    """Index of this worker, from 0."""
    return int(os.environ.get("HOROVOD_RANK", 0))


def first():
    """Whether this is the first worker, which uses the run folder and the console."""
    return rank() == 0


def _horovod():
    try:
        import horovod.tensorflow
    except ImportError as error:
        raise InputError(
            "started by horovodrun, but {} has no Horovod for TensorFlow ({}); see "
            "requirements-horovod.txt".format(os.uname().nodename, str(error).splitlines()[0])
        )
    return horovod.tensorflow


@contextlib.contextmanager
def joined():
    """A context in which this process is one of the workers, silent unless it is the first.

    Raises:
      InputError: Horovod is missing, or another worker has ended early.
    """
    if size() == 1:
        yield
        return
    # Before TensorFlow looks for GPUs; each worker of a machine takes one, in turn.
    local_rank = int(os.environ.get("HOROVOD_LOCAL_RANK", 0))
    os.environ.update(device.environment_of(local_rank))
    _horovod().init()  # Horovod shuts down when the process exits, after the last error message
    try:
        with contextlib.ExitStack() as stack:
            if not first():
                null = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(null))
                stack.enter_context(contextlib.redirect_stderr(null))
            yield
    except tf.errors.OpError as error:
        if error.op is None or not error.op.type.startswith("Horovod"):
            raise
        raise InputError("worker {}: ended, as another worker has ended".format(rank()))


def own_seed(seed):
    """This worker's seed, different for each pair of worker and `seed`."""
    return seed * size() + rank()


def of_first(value, config):
    """The first worker's `value`, a Python object, on every worker.

    Args:
      config: configuration of the later training session, because TensorFlow creates its threads
        for the first session of a process.
    """
    if size() == 1:
        return value
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        return _horovod().broadcast_object(value, session=session)


def average(value, name):
    """Averages a tensor over all workers. Every worker must fetch it at the same steps.

    A control dependency is not enough, because TensorFlow prunes unused nodes.

    Args:
      name: identifies the tensor across workers. TensorFlow's own names differ between machines,
        because the graph depends on the number of cores.
    """
    return value if size() == 1 else _horovod().allreduce(value, name=name)


def minimize(optimiser, loss, step=None):
    """An operation that updates the variables with the workers' averaged gradients.

    Horovod's DistributedOptimizer does not name gradients by their variables (see `average`).

    Args:
      optimiser: a `tf.train.Optimizer`.
      loss: this worker's loss.
      step: variable to increment, or None.
    """
    gradients = [
        (average(gradient, "gradients/" + variable.op.name), variable)
        for gradient, variable in optimiser.compute_gradients(loss)
        if gradient is not None
    ]
    return optimiser.apply_gradients(gradients, global_step=step)


class Together(tf.train.SessionRunHook):
    """Makes the workers start from the first one's variables and stop after the same step.

    It has to be the last hook, so that no worker ends before the first has saved: `horovodrun` ends
    all workers as soon as one of them ends with an error code.

    Args:
      variables: the variables of the model and the optimisers.
      received: a list; training stops once any worker's list is not empty.
    """

    def __init__(self, variables, received):
        # Not the range coder's tables, whose shapes may differ; each step recomputes them.
        self._variables = [v for v in variables if v.shape.is_fully_defined()]
        self._received = received

    def begin(self):
        if size() > 1:
            self._start = _horovod().broadcast_variables(self._variables, 0)
            self._mine = tf.placeholder(tf.float32, ())
            self._share = average(self._mine, "share_that_stops")

    def after_create_session(self, session, coord):
        if size() > 1:
            session.run(self._start)

    def after_run(self, run_context, run_values):
        if self._any_received(run_context.session):
            run_context.request_stop()

    def end(self, session):
        self._any_received(session)

    def _any_received(self, session):
        if size() == 1:
            return bool(self._received)
        return session.run(self._share, {self._mine: bool(self._received)}) > 0
