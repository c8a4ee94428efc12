"""The course of the optimisation of one image, compared across methods.

    python -m study.traces results/rd-sga-*.npz results/rd-map-*.npz --output traces.png

plots, against the iteration, the loss λ·MSE + bpp, the rate, the PSNR, the temperature, and the
fractions of y and z whose transmitted value differs from the network's prediction, from the records
in result files: dotted for the relaxed latents, as the gradient sees them, solid after rounding.
Records have a point every `--record_every` iterations (100), a flag of the scripts: results of
`'sga --preset fast --record_every 5'` show more.
"""

import numpy as np

from runtime.errors import InputError
from study import command, figures, tables

PANELS = {  # keys of the records, without `_after_rounding`
    "rd_loss": "λ·MSE + bpp",
    "its_bpp": "rate, bits per pixel",
    "its_psnr": "PSNR, dB",
    "T": "temperature",
    "its_y_changed": "y that changed, %",
    "its_z_changed": "z that changed, %",
}
ROUNDED = "_after_rounding"


def main(argv=None):
    args = parse(argv)
    figures.check(args.output)
    traces = {}
    labels = tables.labels([tables.load(path) for path in args.results])
    for path, label in zip(args.results, labels):
        trace = {**read(path, args.image), "label": label}
        if label in traces:
            raise InputError("{}: a second result of {}".format(path, trace["label"]))
        traces[trace["label"]] = trace
    first = next(iter(traces.values()))
    for trace in traces.values():
        pixels = {trace["pixels"], first["pixels"]} - {""}  # results of scripts lack the digest
        if trace["what"] != first["what"] or len(pixels) > 1:
            raise InputError(
                "{}: of {}, but {} of {}; a figure is of one image, all its pixels, and λ".format(
                    trace["path"], trace["what"], first["path"], first["what"]
                )
            )
    figures.save(draw(traces, first["what"]), args.output)
    print("wrote {}".format(args.output))


def parse(argv):
    parser = command.parser("study.traces", __doc__)
    add = parser.add_argument
    add("results", nargs="+", help="result files of one image, one for each method or setting")
    add("--image", type=int, default=0, help="number of the image in result files of several (0)")
    command.add_output(parser, "./traces.png", "FILE", ".png or .svg ")
    return parser.parse_args(argv)


def read(path, index):
    """Reads the record of one image from a result file.

    Returns:
      dict with the record's arrays (iterations,), `label` (the method), `what` (image and λ),
      `pixels` (digest of the pixels, if the result is a study's) and `path`.

    Raises:
      InputError: the result is unreadable, has no such image, or is of a method that optimises
        nothing.
    """
    values = tables.load(path)
    try:
        number, together = len(values["psnr"]), int(values["eval_batch_size"])
        label = tables.as_text(str(values.get("method", values["script"])))
        what = "{}, λ = {:g}".format(tables.image_name(values), values["lmbda"])
        pixels = str(values.get("image_sha256", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("{}: not a result of these scripts ({!r})".format(path, error))
    if not 0 <= index < number:
        raise InputError("{}: has {} images, and no number {}".format(path, number, index))
    if "its" not in values:
        raise InputError("{}: has no record: {} optimises nothing".format(path, label))
    if number > 1:
        what += ", image {}".format(index)
    if len(np.atleast_2d(values.get("rd_loss", ()))) == number:  # a record for each image
        together = 1
    if together > 1:
        what += " (mean of the {} optimised with it)".format(together)
    trace = {"label": label, "what": what, "pixels": pixels, "path": path, "its": values["its"]}
    for key in (*PANELS, *(key + ROUNDED for key in PANELS)):
        if key in values:
            record = values[key]
            trace[key] = record[index // together] if record.ndim == 2 else record
    return trace


def draw(traces, title):
    """Draws the figure of `traces`, a dict from label to trace (see `read`)."""
    figure, axes = figures.subplots(len(PANELS), 1, figsize=(8, 14), sharex=True)
    looks = figures.looks(traces)
    for panel, (key, text) in zip(axes, PANELS.items()):
        scale = 100 if text.endswith("%") else 1
        for label, trace in traces.items():
            look = {**looks[label], "markersize": 3}
            relaxed = {**look, "linestyle": ":", "alpha": 0.4} if key != "T" else look
            for name, style in ((key, relaxed), (key + ROUNDED, look)):
                if name in trace:
                    panel.plot(trace["its"], scale * trace[name], **style)
        panel.set_ylabel(text)
    figure.align_ylabels()
    figure.suptitle(figures.plain(title))
    axes[-1].set_xlabel("iteration")
    handles = [figures.line(figures.plain(label), **looks[label]) for label in traces]
    handles.append(figures.line("relaxed, as the gradient sees it", color="0.5", linestyle=":"))
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.02), "ncol": 4}
    axes[0].legend(handles=handles, **above, fontsize="small")
    return figure


if __name__ == "__main__":
    command.run(main)
