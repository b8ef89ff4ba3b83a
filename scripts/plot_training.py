# SPDX-License-Identifier: Apache-2.0
"""Plots a training run, finished or not: loss, learning rate and validation figures over the steps."""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the output folder of scripts/train.py, or a checkpoint in it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: training.png in that folder)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    output = arguments.output or arguments.run / "training.png"
    try:
        from clip4str_hf.training.plots import load_log_history, plot_training

        plot_training(load_log_history(arguments.run), arguments.run.resolve().name).savefig(output, dpi=120)
    except (ImportError, OSError, ValueError) as error:  # ImportError: no matplotlib
        sys.exit(str(error))
    print(output)


if __name__ == "__main__":
    main()
