"""The optimisation of latents: Adam runs in the graph, and records of their progress."""

import collections

import numpy as np

from model import device
from runtime.errors import InputError
from runtime.quiet_tf import tf

RECORD_EVERY = 100  # iterations between records, unless a flag says otherwise
LARGEST_LATENT = 1e6  # float32 resolves fractions of mu up to here; the coder's integers go further


class EarlyStop(collections.namedtuple("EarlyStop", "every rounded tie_is_worse")):
    """Stops when a loss gets worse, and restores the latents of the last check that passed.

    Checks are made at t = 0, `every`, 2 `every`, … and at the last t; one that passes stores the
    latents after the update of that t.

    every: iterations between checks.
    rounded: whether to check the loss of the updated latents after rounding, rather than the loss
      whose gradient the update used.
    tie_is_worse: whether a loss equal to that of the last check counts as worse.
    """

    def worse(self, loss, last):
        """Whether to stop at `loss`, given the loss `last` of the previous check."""
        return loss > last or (self.tie_is_worse and loss == last)


class Stage:
    """An Adam run over some latents, in the graph.

    Args:
      start: dict of tensors, the initial values of the latents.
      loss: `loss(**latents)` returns a loss and its metrics.
      relaxed: `relaxed(t, **latents)` returns the latents whose loss is minimised.
      rounded: `rounded(**latents)` returns the latents as they are transmitted.
      its: iterations.
      learning_rate: function of t that returns a tensor or a number.
      adam: has `adam_beta1`, `adam_beta2` and `adam_epsilon`, and perhaps `record_every`, the
        iterations between figures that are shown and saved with the result.
      temperature: function of t that returns a tensor, to be shown and recorded; or None.
      early_stop: an `EarlyStop`, or None.

    Attributes:
      latents: dict of tensors, the current values.
      start, update: operations that start the run and that perform one iteration.
      rounded_figures: dict of scalars, the loss and the metrics of the rounded latents.
      remember, go_back: operations that store the latents and that restore them.
    """

    title = "R-D optimisation"

    def __init__(
        self,
        start,
        loss,
        relaxed,
        rounded,
        its,
        learning_rate,
        adam,
        temperature=None,
        early_stop=None,
    ):
        self.its, self.early_stop = its, early_stop
        self.record_every = getattr(adam, "record_every", RECORD_EVERY)
        with device.on_host():
            step = _variable(tf.zeros((), tf.int64))
            t = step.read_value()
        variables = _variables(start)
        remembered = _variables(start)
        start_hat = _integers(start, rounded)
        first = _variables(start_hat)

        # Read once for the gradient and all figures shown with it, so that they cannot disagree.
        before = _values(variables)
        objective, metrics = loss(**relaxed(t, **before))
        optimizer = tf.train.AdamOptimizer(
            learning_rate(t), adam.adam_beta1, adam.adam_beta2, adam.adam_epsilon
        )
        gradients = tf.gradients(objective, list(before.values()))
        self.update = optimizer.apply_gradients(
            list(zip(gradients, variables.values())), global_step=step
        )
        self._relaxed = _shown(objective, metrics)
        if temperature is not None:
            self._relaxed["T"] = temperature(t)
        self.latents = _values(variables)
        transmitted = rounded(**self.latents)
        self.rounded_figures = _shown(*loss(**transmitted))
        self._rounded = dict(self.rounded_figures)
        for name, before in _values(first).items():
            # More than half a step, because a grid around mu itself moves a little.
            moved = tf.math.abs(transmitted[name] - before) > 0.5
            self._rounded[name + "_changed"] = tf.reduce_mean(tf.cast(moved, tf.float32))
        self.start = tf.group(
            tf.variables_initializer(optimizer.variables() + [step]),
            _assign(variables, start),
            _assign(first, start_hat),
        )
        # All that an iteration depends on, to be saved and put back by `_first_bad`.
        self._state = [step, *variables.values(), *optimizer.variables()]
        self.remember = _assign(remembered, self.latents)
        self.go_back = _assign(variables, _values(remembered))

    def again(self, session, position, number):
        """One more iteration after the run, at a step of the last part of the schedule.

        Args:
          position: where that part begins, as a fraction of the iterations.
          number: of iterations so far; they go through that part over and over.
        """
        begin = min(int(position * self.its), self.its - 1)
        self._state[0].load(begin + number % (self.its - begin), session)
        session.run(self.update)

    def run(self, session, step, show, steering=None):
        """Runs the stage from its start.

        Args:
          session: `tf.Session` in which all variables have been initialised.
          step: `step(n)` is called when n iterations are done.
          show: `show(t, relaxed, rounded)` is called every `record_every` iterations and at the
            last, with dicts of the relaxed figures before update t and the rounded ones after it.
          steering: a `steering.Steering` that changes λ during the run, or None.

        Raises:
          InputError: the loss or a latent is NaN, infinite or, in the end, beyond `LARGEST_LATENT`.

        Returns:
          dict of lists, one value for every `record_every` iterations and the last: `its`, `T`
          if there is a temperature, `rd_loss`, `its_bpp` and `its_psnr`, the same three with
          `_after_rounding`, and `its_y_changed_after_rounding`, the fraction of y whose rounded
          value differs from that at the start; likewise for z, if it is rounded.
        """
        session.run(self.start)
        if steering:
            steering.begin(session)
        update = session.make_callable(self.update)
        record = collections.defaultdict(list)
        last = good = None
        for t in range(self.its):
            final = t == self.its - 1
            checks = self.early_stop and (t % self.early_stop.every == 0 or final)
            if not (checks or final or t % self.record_every == 0):
                update()
                if steering:
                    steering.after(session, t)
                step(t + 1)
                continue
            _, relaxed = session.run([self.update, self._relaxed])
            rounded = session.run(self._rounded)
            stops = False
            if checks:
                figures = rounded if self.early_stop.rounded else relaxed
                loss = steering.loss if steering else lambda figures: figures["rd_loss"]
                stops = last is not None and self.early_stop.worse(loss(figures), loss(last))
                session.run(self.go_back if stops else self.remember)
                last = figures
            if steering:
                steering.after(session, t)
            step(t + 1)
            if stops or final or t % self.record_every == 0:
                state = session.run(self._state)
                latents = state[1 : 1 + len(self.latents)]
                bound = LARGEST_LATENT if stops or final else np.inf
                # A loss at which it stops may be anything: it went back to good latents.
                if not ((stops or np.isfinite(relaxed["rd_loss"])) and within(latents, bound)):
                    raise InputError(self._first_bad(session, good, t))
                if within(latents, LARGEST_LATENT):
                    good = state
                show(t, relaxed, rounded)
                for key, value in _recorded(t, relaxed, rounded).items():
                    record[key].append(value)
            if stops:
                break
        return dict(record)

    def _first_bad(self, session, good, last):
        """Says at which iteration up to `last` which value was the first to be of no use.

        Runs the iterations again, from `good`, a value of `_state`, or from the start if None.
        """
        if good is None:
            session.run(self.start)
        else:
            for variable, value in zip(self._state, good):
                variable.load(value, session)
        for t in range(good[0] if good else 0, last + 1):
            _, relaxed = session.run([self.update, self._relaxed])
            where = "iteration {}".format(t)
            if "T" in relaxed:
                where += ", temperature {:.3g}".format(relaxed["T"])
            for key in ("mse", "bpp", "rd_loss"):
                if key in relaxed and not np.isfinite(relaxed[key]):
                    cause = "lambda" if key == "rd_loss" else "lr" if t else ""
                    return _bad(key, "is NaN or infinite", where, cause)
            for name, values in session.run(self.latents).items():
                if not within([values], LARGEST_LATENT):
                    what = "has NaN, infinity or values beyond {:.0e} after the update".format(
                        LARGEST_LATENT
                    )
                    return _bad(name, what, where, "lr")
        return _bad("the loss", "is NaN or infinite", "about iteration {}".format(last), "lr")


def cosine_decay(rate, final, t, its):
    """A learning rate that falls from `rate` to `final` · `rate` along a cosine.

    Args:
      t: the iteration, a float32 tensor from 0 to `its`, where the fall ends.
    """
    if final == 1:
        return rate
    return rate * (final + (1 - final) * 0.5 * (1 + tf.math.cos(np.pi * t / its)))


def within(arrays, bound):
    """Whether all values of the arrays are finite and below `bound` in magnitude."""
    return all(np.all(np.abs(values) < bound) for values in arrays)


def _bad(name, what, where, cause):
    hint = "try a lower --" + cause if cause else "the model gives this, before any update"
    return "{} {}, first at {}; {}".format(name, what, where, hint)


RECORDED = {
    "T": "T",
    "rd_loss": "rd_loss",
    "bpp": "its_bpp",  # "psnr" is a metric of the result
    "psnr": "its_psnr",
    "y_changed": "its_y_changed",
    "z_changed": "its_z_changed",
}


def _integers(latents, rounded):
    """The rounded values of those `latents` that are transmitted rounded, as a dict."""
    transmitted = rounded(**latents)
    return {name: transmitted[name] for name in ("y", "z") if name in latents}


def _recorded(t, relaxed, rounded):
    """The figures of iteration t that a result keeps, by key (see `Stage.run`)."""
    return {
        "its": t,
        **{name: relaxed[key] for key, name in RECORDED.items() if key in relaxed},
        **{n + "_after_rounding": rounded[key] for key, n in RECORDED.items() if key in rounded},
    }


def _variable(value):
    return tf.get_variable(
        "latent_{}".format(len(tf.global_variables())),
        initializer=tf.zeros(value.shape, value.dtype),
        trainable=False,
        use_resource=True,
    )


def _variables(values):
    return {name: _variable(value) for name, value in values.items()}


def _values(variables):
    return {name: variable.read_value() for name, variable in variables.items()}


def _assign(variables, values):
    return tf.group(*[variables[name].assign(value) for name, value in values.items()])


def _shown(loss, metrics):
    """Scalars for a line of progress: the loss, and the metrics averaged over the images."""
    return {"rd_loss": loss, **{key: tf.reduce_mean(metrics[key]) for key in metrics}}


def merge_records(batches):
    """Merges the records of the stages of all batches into a dict of arrays.

    Keys of the second stage get the prefix `rate_`. `its` and `T` are (iterations,), and so is
    everything else if there is a single record. With several records, everything else is (records,
    iterations), with NaN for iterations that a record lacks because it stopped early.

    Args:
      batches: for each batch, a list with an entry per stage: a list of records, either one for the
        batch or one per image.
    """
    merged = {}
    for index, stage in enumerate(zip(*batches)):
        records = [record for batch in stage for record in batch]
        prefix = "rate_" if index else ""
        its = sorted({t for record in records for t in record["its"]})
        merged[prefix + "its"] = np.array(its)
        for key in sorted(set(records[0]) - {"its"}):
            values = np.full((len(records), len(its)), np.nan)
            for row, record in zip(values, records):
                row[np.searchsorted(its, record["its"])] = record[key]
            if key == "T":
                values = np.nanmax(values, axis=0)  # the same in all records that have it
            merged[prefix + key] = values[0] if len(records) == 1 and key != "T" else values
    return merged
