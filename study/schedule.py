"""The order of a study's tasks, and how long they will take."""

import collections

ITERATIONS = ("sga_its", "r_its")  # settings that are numbers of iterations
BESIDES = 10  # iterations that take about as long as coding and measuring an image does
# Pixels times iterations, after which the start of a process (four seconds) hardly counts.
CHUNK = 5e7
LEAST = 4  # tasks for which another process is started


def work(task):
    """A rough measure of how long a task takes, in pixels times iterations."""
    its = sum(task.settings.get(name, 0) for name in ITERATIONS) + BESIDES if task.run else 1
    return task.image.height * task.image.width * its


def placed(tasks, slots):
    """Puts tasks in order, and decides where each should run.

    One image follows the other, so that a study which is interrupted has some images complete. But
    short tasks that differ in the image alone, and images of one size, stand together: a process
    takes one after another (`study.execution`).

    Args:
      tasks: list of `tasks.Task`.
      slots: number of tasks that run at a time.

    Returns:
      list of (task, slot), with 0 ≤ slot < `slots`.
    """
    order = {name: n for n, name in enumerate(dict.fromkeys(task.image.name for task in tasks))}
    groups = collections.OrderedDict()
    for task in tasks:
        size = (task.image.height, task.image.width)
        groups.setdefault((task.kind, *size) if task.run else task.method, []).append(task)
    chunks = []
    for group in groups.values():
        each = sum(map(work, group)) / len(group)
        chunks += _cut(group, max(1, int(CHUNK * slots / each)))
    chunks.sort(key=lambda chunk: order[chunk[0].image.name])
    loads, found = [0] * slots, []
    for chunk in chunks:
        parts = max(1, min(slots, len(chunk) // LEAST))
        for part in _cut(chunk, -(-len(chunk) // parts)):
            slot = loads.index(min(loads))
            loads[slot] += sum(map(work, part))
            found += [(task, slot) for task in part]
    return found


def _cut(tasks, length):
    return [tasks[start : start + length] for start in range(0, len(tasks), length)]


class Estimate:
    """How long the rest of the tasks will take, from the seconds that others took.

    A method's seconds are proportional to `work`; those of a method of which no task has ended are
    like the mean of the others'. The starts of processes are left out: they are few.

    Args:
      tasks: the tasks to come.
      slots: number of tasks that run at a time.
    """

    def __init__(self, tasks, slots):
        self._slots = slots
        self._left, self._done = collections.Counter(), collections.Counter()
        self._seconds = collections.Counter()
        for task in tasks:
            self._left[task.method] += work(task)

    def ended(self, task, seconds, start):
        """Records that a task took some seconds, and some of them to start; None: it failed.

        Returns:
          Whether it is the first of its method whose seconds are known.
        """
        self._left[task.method] -= work(task)
        if seconds is None:
            return False
        first = task.method not in self._done
        self._done[task.method] += work(task)
        self._seconds[task.method] += seconds - start
        return first

    def seconds(self):
        """Seconds until all tasks have ended; None as long as there is nothing to tell from."""
        if not self._done:
            return None
        mean = sum(self._seconds.values()) / sum(self._done.values())
        rates = {method: self._seconds[method] / done for method, done in self._done.items()}
        total = sum(left * rates.get(method, mean) for method, left in self._left.items())
        return total / self._slots
