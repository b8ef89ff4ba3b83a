# SPDX-License-Identifier: Apache-2.0
"""Starts programs of several processes."""

import os
import subprocess
import sys

import pytest


TORCHRUN = ["torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def launch(launcher: list[str], *arguments, seconds: float = 240, **environment: str) -> str:
    """
    What the processes print. A launcher that is not at its end in time is asked to end its processes too: they would
    outlive one that is killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *launcher, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail(f"not at its end after {seconds} s:\n{process.communicate()[1][-3000:]}")
    assert process.returncode == 0, errors[-3000:]
    return output
