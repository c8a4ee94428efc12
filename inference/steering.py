"""Steers λ while the latents of an image are optimised, so that the result meets a target.

    log λ = l + P · e      l ← l + e / (T s)  per iteration,    e = log target - log of the result

a proportional-integral controller, where the result is that of the rounded latents: their bits, or
1 / MSE. s is its slope in log λ. l stands still while the result approaches the target fast enough
by itself, because latents follow λ only slowly. It takes one run to find λ; where the end of the
run misses the target, a few more iterations with λ moved further lead to it (`Steering.land`).

On crops of Kodak images with a model of N = 64, λ·MSE + bpp was about that of a run at the fixed λ
of the same rate, at worst half a percent above (docs/targets.md). Where a rate hardly follows λ,
as with models that code all they can, a result that has fallen below its target may not come back.
"""

import collections

import numpy as np

from runtime.quiet_tf import tf

SLOPE = 0.4  # typical change of a result's logarithm per unit of log λ
GUESS = 2.8  # change of log λ at the start, per unit of the logarithm that the target is away
INTEGRAL = 0.2  # T, as a fraction of the iterations
PROPORTIONAL = (3.0, 10.0)  # P at the start and, because latents get slower, at the end
PROPORTIONAL_MOST = 0.5
STEP_MOST = 0.2  # largest e that the integral sees
# l waits if the target is reached within these fractions of the iterations, and of those left.
APPROACH, LEFT = 0.5, 0.6
SPEED = 0.05  # fraction of the iterations that the speed of approach is measured over
# Where e does not fall to FALL times its value within a fraction PATIENCE of the iterations, the
# gains double, up to GAIN_MOST; where e changes its sign, they are halved. Models that code nearly
# all they can have a tenth of SLOPE.
FALL, PATIENCE, GAIN_MOST = 0.75, 0.08, 16.0
FACTOR = 1000.0  # λ stays within this factor of the one it begins with
MORE = 0.4  # iterations to land, at most, as a fraction of a run's
PUSH = (10.0, 0.2, 1.0)  # change of log λ to land: per unit of e, the least and the most
HARDER = 20.0  # growth of that change, per number of iterations of a run
ATTEMPTS = 5  # at coding the image


class Lambda:
    """λ as a variable of the current graph.

    Attributes:
      start: the λ that it begins with; tensor: its value.
    """

    def __init__(self, start):
        self.start = start
        self._variable = tf.get_variable("lmbda", (), trainable=False, use_resource=True)
        self.tensor = self._variable.read_value()
        self._next = tf.placeholder(tf.float32, ())
        self._assign = self._variable.assign(self._next)

    def set(self, session, value):
        session.run(self._assign, {self._next: value})


class Steering:
    """Steers one image.

    Args:
      target: `targets.Target`.
      method: a `methods.Method`; the loss of its first stage depends on λ.
      lmbda: `Lambda`.

    Attributes:
      lmbda: λ as it stands, in the end the λ found.
      result: logarithm of what the file has that was coded last.
    """

    def __init__(self, target, method, lmbda):
        self.target, self._lambda = target, lmbda
        self._stage, self._position = method.stages[0], method.landing
        self._every = max(1, self._stage.its // (100 if target.is_rate else 30))
        self._aim = target.aim()[1]

    def begin(self, session):
        """Sets λ for the start of the run, once the latents are at theirs."""
        self._own, self._offset = np.log(self._lambda.start), self.target.overhead
        self._course = collections.defaultdict(list)
        self._logs, self._settled = [], []
        self._gain, self._judged = 1.0, (0, None)
        self._left, self._extra, self._tried = int(MORE * self._stage.its), 0, []
        self._first = self.measure(session)
        self._change(session, self._own + GUESS * (self._aim - self._first), 0.0)

    def measure(self, session):
        """The logarithm of the result of the latents as they are."""
        key = "bpp" if self.target.is_rate else "psnr"
        value = float(session.run(self._stage.rounded_figures[key]))
        bits = max(value * self.target.pixels + self._offset, 1.0) if self.target.is_rate else None
        self._log = self.target.log(bits, value)
        return self._log

    def _change(self, session, integral, proportional):
        low, high = self._own - np.log(FACTOR), self._own + np.log(FACTOR)
        self._integral = float(np.clip(integral, low, high))
        self.lmbda = float(np.exp(np.clip(self._integral + proportional, low, high)))
        self._lambda.set(session, self.lmbda)

    def after(self, session, t):
        """Changes λ after iteration `t` of the run, if it is time."""
        its, done = self._stage.its, t + 1
        if done % self._every:
            return
        log = self.measure(session)
        error = self._aim - log
        back = int(np.ceil(SPEED * its / self._every))
        before = self._logs[-back] if len(self._logs) >= back else self._first
        speed = (log - before) / (min(back, len(self._logs) + 1) * self._every)
        self._logs.append(log)
        integral = self._integral
        horizon = min(APPROACH * its, LEFT * (its - done))
        waits = speed * np.sign(error) * horizon > abs(error)
        self._judge(done, error, waits)
        if not waits:
            step = self._gain * np.clip(error, -STEP_MOST, STEP_MOST)
            integral += step * self._every / (INTEGRAL * its * SLOPE)
        first, last = PROPORTIONAL
        gain = self._gain * (first + (last - first) * (done / its) ** 2)
        self._change(
            session, integral, np.clip(gain * error, -PROPORTIONAL_MOST, PROPORTIONAL_MOST)
        )
        self._record(done, log)
        if done > 0.6 * its:
            self._settled.append(np.log(self.lmbda))

    def _judge(self, done, error, waits):
        """Doubles the gains if the result hardly follows λ, and halves them if it overshoots."""
        since, before = self._judged
        if before is not None and error * before < 0:
            self._gain = max(1.0, self._gain / 2)
        elif before is not None and done - since < PATIENCE * self._stage.its:
            return
        elif before is not None and not waits and abs(error) > FALL * abs(before):
            low, aim, high = self.target.aim()
            if not low - aim <= error <= high - aim:
                self._gain = min(2 * self._gain, GAIN_MOST)
        self._judged = done, error

    def _record(self, its, log):
        self._course["its"].append(its)
        self._course["lmbda"].append(self.lmbda)
        self._course["result"].append(self.target.in_units(log))

    def loss(self, figures):
        """λ · MSE + bpp at λ as it stands now, for early stops."""
        return self.lmbda * figures["mse"] + figures["bpp"]

    def land(self, session):
        """Continues with λ moved further until the target is met or no iterations are left."""
        low, aim, high = self.target.aim()
        if self._settled:
            self._integral = float(np.mean(self._settled))
        best, side, scale = None, 0, 1.0
        most_its = self._left // 2  # the rest corrects for what the coded image turns out to have
        for n in range(most_its + 1):
            log = self.measure(session)
            # A result on the wrong side of a size is no result, however close.
            distance = abs(log - aim) + (
                1e3 if self.target.flag == "max_bytes" and log > high else 0
            )
            if best is None or distance < best:
                best = distance
                session.run(self._stage.remember)
            if low <= log <= high or n == most_its:
                break
            gain, least, most = PUSH
            if side * (aim - log) < 0:
                scale /= 2  # it has gone past the target
            side = np.sign(aim - log)
            push = scale * side * np.clip(gain * abs(aim - log), least, most)
            push *= self._gain * (1 + HARDER * n / self._stage.its)
            self._change(session, self._integral, push)
            self._stage.again(session, self._position, self._extra)
            self._extra += 1
            self._record(self._stage.its + self._extra, log)
        self._left -= n
        session.run(self._stage.go_back)
        self.measure(session)
        # The λ at which a run would have this result, nearly.
        self.lmbda = float(np.exp(self._integral))
        self._lambda.set(session, self.lmbda)

    def misses(self, bits, psnr):
        """Whether a coded result misses the target, for which the next landing then corrects.

        Args:
          bits, psnr: of the coded image.
        """
        bits = max(bits, 1.0)  # bits-back gives back more than it takes in tiny files
        self.result = self.target.log(bits, psnr)
        if self.target.is_rate:
            self._offset += bits - np.exp(self._log)
        self._tried.append((self.lmbda, self.result))
        return self.target.side(self.result) != 0

    def best(self):
        """The number, from 0, of the attempt whose coded result is closest to the target."""
        too_large = self.target.flag == "max_bytes"

        def order(attempt):
            _, result = self._tried[attempt]
            is_over = too_large and self.target.side(result) > 0
            return self.target.side(result) != 0, is_over, abs(result - self._aim)

        return min(range(len(self._tried)), key=order)

    def return_to(self, session, attempt):
        """Sets λ to that of an attempt, whose latents are to be the result."""
        self.lmbda, self.result = self._tried[attempt]
        self._lambda.set(session, self.lmbda)

    @property
    def exhausted(self):
        """Whether nothing is left to try."""
        return self._left < 2 or len(self._tried) >= ATTEMPTS

    def record(self):
        """The course of λ, a dict of arrays: iterations, λ, results in the units of the target."""
        course = {"steered_" + key: np.array(values) for key, values in self._course.items()}
        course["more_its"] = self._extra
        return course
