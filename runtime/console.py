"""Progress and notes on the console."""

import contextlib
import sys
import time

from tqdm import tqdm


class Progress:
    """A progress bar with the time left; without a terminal, a plain line every half minute.

    Args:
      total, initial: last step, and the step to start from.
      title: text in front of the bar or line.
      left: function that returns the seconds left, or None; by default, they are as for the steps
        so far.
    """

    LINE_SECS = 30
    BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

    def __init__(self, total, initial=0, title="", left=None):
        self.bar = tqdm(
            total=total,
            initial=initial,
            desc=title or None,
            dynamic_ncols=True,
            leave=False,
            disable=None,  # i.e. if stderr is not a terminal
            bar_format=self.BAR if left else None,
        )
        self.left = left
        self.total, self.initial, self.title = total, initial, title
        self.begun = self.shown = time.time()

    def due(self):
        """Whether it is time to `show` progress again."""
        return time.time() - self.shown >= (self.LINE_SECS if self.bar.disable else 1)

    def update(self, step):
        """Records that `step` steps are done, and shows it if `due`."""
        (self.show if self.due() else self.advance)(step)

    def advance(self, step):
        """Records that `step` steps are done."""
        self.bar.update(step - self.bar.n)

    def show(self, step, figures=""):
        """Records that `step` steps are done and shows it, followed by the text `figures`."""
        self.shown = time.time()
        rate = max(step - self.initial, 1e-9) / (self.shown - self.begun)
        seconds = self.left() if self.left else (self.total - step) / rate
        left = "" if seconds is None else ", {} left".format(tqdm.format_interval(seconds))
        if not self.bar.disable:
            self.bar.set_postfix_str(figures + left[2:] if self.left else figures, refresh=False)
            self.advance(step)
            return
        words = (self.title, "{}/{}".format(step, self.total), figures)
        line = " ".join(word for word in words if word)
        if not self.left:  # with steps that take unequally long, it says little
            line += ", {:.2f}/s".format(rate)
        print(line + left, file=sys.stderr, flush=True)

    def write(self, line):
        """Prints a line to stdout, above the bar."""
        tqdm.write(line)
        sys.stdout.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()


@contextlib.contextmanager
def shown(verbose, its, title):
    """Shows the progress of `its` iterations under a title.

    Args:
      verbose: whether to print the title and lines, not only the progress.

    Yields:
      `step(n)`, which records that n iterations are done, and `write(line)`; two Nones if `its` is
      0.
    """
    if not its:
        yield None, None
        return
    if verbose:
        print("----{}----".format(title))
    with Progress(its, title=title) as progress:

        def step(done):
            progress.update(done)

        def write(line):
            if verbose:
                progress.write(line)

        yield step, write


def show_all():
    """From here on, characters that stdout cannot encode are printed as escapes."""
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def note(text):
    """Prints a note to stderr: something the user should know that is not an error."""
    print("note: " + text, file=sys.stderr)
