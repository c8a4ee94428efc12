"""Training by several workers: processes on one machine or on many, started by `horovodrun`.

Each takes patches of its own; gradients are averaged over all, so that the weights stay the same
everywhere. The first worker alone reads and writes the run folder, and speaks. A process that was
not started by `horovodrun` is the only worker: for it nothing here does anything.
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
    """Number of this worker, from 0."""
    return int(os.environ.get("HOROVOD_RANK", 0))


def first():
    """Whether this is the worker that has the run folder and the console."""
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
    """Within, this process works with the others; all but the first are silent.

    Raises:
      InputError: Horovod is missing; another worker has ended before its time.
    """
    if size() == 1:
        yield
        return
    # Before TensorFlow looks for GPUs: each worker of a machine takes one, in turn.
    local_rank = int(os.environ.get("HOROVOD_LOCAL_RANK", 0))
    os.environ.update(device.environment_of(local_rank))
    _horovod().init()  # and it shuts down at the exit of the process, after the last error message
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
    """A seed for each worker and `seed`, other than those of other workers and seeds."""
    return seed * size() + rank()


def of_first(value, config):
    """The first worker's `value`, a Python object.

    Args:
      config: of the session that is to follow. TensorFlow makes its threads for the first one.
    """
    if size() == 1:
        return value
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        return _horovod().broadcast_object(value, session=session)


def average(value, name):
    """The mean of a tensor over the workers, all of which have to compute it in the same steps.

    A control dependency does not make them: TensorFlow removes what nothing else depends on.

    Args:
      name: by which the workers find each other's tensors. Those that TensorFlow makes differ
        between machines, as the graph depends on the number of cores.
    """
    return value if size() == 1 else _horovod().allreduce(value, name=name)


def minimize(optimiser, loss, step=None):
    """An update of the variables along the mean of the workers' gradients.

    Horovod's DistributedOptimizer does not name what it averages by the variables (see `average`).

    Args:
      optimiser: a `tf.train.Optimizer`.
      loss: this worker's.
      step: variable that is incremented.
    """
    gradients = [
        (average(gradient, "gradients/" + variable.op.name), variable)
        for gradient, variable in optimiser.compute_gradients(loss)
        if gradient is not None
    ]
    return optimiser.apply_gradients(gradients, global_step=step)


class Together(tf.train.SessionRunHook):
    """Lets the workers start with the first one's variables, and stop after the same step.

    Comes last of the hooks: no worker ends before the first has saved, since `horovodrun` ends all
    as soon as one has ended with an error code.

    Args:
      variables: those of the model and of the optimisers.
      received: a list; the session should stop once it is not empty in one of the workers.
    """

    def __init__(self, variables, received):
        # The range coder's tables may differ in shape; each step computes them anew.
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
