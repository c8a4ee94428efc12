"""All nine methods with the demo models on centre crops of photographs: `make compare`.

Prints the table of means that the README shows, and the sizes of the files of sga.py against the
archive of bb_sga.py; writes one row per image to a CSV file. Results that are there already are not
computed again.
"""

import argparse
import csv
import glob
import os
import sys

import numpy as np
import scripts

import utils
from coding import container

RUNS = {
    scripts.demo_run("mbt2018"): ["mbt2018", "ste", "unoise", "map", "danneal", "sga"],
    scripts.demo_run("mbt2018_bb"): ["bb_plain", "bb_no_sga", "bb_sga"],
}
COLUMNS = ["est_bpp", "actual_bpp", "psnr", "msssim", "mse", "est_rd_loss", "seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--crop", default="384x256", help="width x height of the centre crops")
    parser.add_argument("--output", default="compare", help="folder for crops and results")
    parser.add_argument("--csv", default="", help="file for one row per image and method")
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    paths = scripts.photographs(args.images)
    crops = os.path.join(args.output, "crops.npy")
    pixels = scripts.centre_crops(args.images, args.crop)
    with utils.atomic_write(crops) as file:
        np.save(file, pixels)

    table, rows = {}, []
    for run, names in RUNS.items():
        found = utils.find_run(scripts.CHECKPOINTS, run)
        for script in names:
            result = table[script] = measure(script, found, crops, args.output)
            for index, path in enumerate(paths):
                name = os.path.splitext(os.path.basename(path))[0]
                values = ["{:.6g}".format(result[column][index]) for column in COLUMNS]
                rows.append([name, script, result["table_row"], *values])
    print_table(table)
    print_sizes(table, args.output, pixels.shape[1] * pixels.shape[2])
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "script", "table_row", *COLUMNS])
            writer.writerows(rows)


def measure(script, run, crops, output):
    """The result of a script on the crops, which may be there already."""
    wanted = {
        "script": script,
        "runname": run.name,
        "checkpoint_step": run.step,
        "lmbda": run.lmbda,
        "input_sha256": utils.file_sha256(crops),
    }
    for path in glob.glob(os.path.join(output, "rd-*=crops.npy.npz")):
        with np.load(path, allow_pickle=False) as result:
            same = all(result[key] == value for key, value in wanted.items())
            if same and os.path.exists(compressed_file(output, script)):
                return dict(result)
    print("running " + script, file=sys.stderr, flush=True)
    path = scripts.compress(script, run.name, crops, output, compressed_file(output, script))
    with np.load(path, allow_pickle=False) as result:
        return dict(result)


def compressed_file(output, script):
    return os.path.join(output, script + ".tfci")


def print_table(table):
    """Means over the images, as a Markdown table; gains against the model's own prediction."""
    print("| script | row | est. bpp | file bpp | PSNR | MS-SSIM | λ·MSE + bpp | gain | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    row = "| {} | {} | {:.4f} | {:.4f} | {:.3f} | {:.4f} | {:.4f} | {:+.2f}% | {:.0f} |"
    for run in RUNS.values():
        anchor = table[run[0]]["est_rd_loss"].mean()
        for script in run:
            result = table[script]
            loss = result["est_rd_loss"].mean()
            print(
                row.format(
                    script + ".py",
                    str(result["table_row"]),
                    *(result[key].mean() for key in ("est_bpp", "actual_bpp", "psnr", "msssim")),
                    loss,
                    100 * (loss / anchor - 1),
                    result["seconds"].mean(),
                )
            )


def print_sizes(table, output, pixels):
    """Files of sga.py, one for each image, against one archive of bb_sga.py for all."""
    header, payloads = container.read(utils.read_bytes(compressed_file(output, "sga")))
    files = [container.write(header._replace(images=1), [payload]) for payload in payloads]
    archive = os.path.getsize(compressed_file(output, "bb_sga"))
    rows = {
        "files of sga.py": sum(len(file) for file in files),
        "archive of bb_sga.py": archive,
        "the same, net": table["bb_sga"]["net_bpp"].sum() * pixels / 8,
        "estimate at its z": table["bb_sga"]["est_bpp_coded"].sum() * pixels / 8,
        "estimate at random z": table["bb_sga"]["est_bpp"].sum() * pixels / 8,
    }
    print("\n| {} images | bytes | bits per pixel |".format(len(files)))
    print("|---|---|---|")
    for name, size in rows.items():
        print("| {} | {:.0f} | {:.4f} |".format(name, size, 8 * size / pixels / len(files)))


if __name__ == "__main__":
    main()
