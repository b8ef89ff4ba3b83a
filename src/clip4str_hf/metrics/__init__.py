# SPDX-License-Identifier: Apache-2.0
"""What a reader is worth: the protocol of the benchmarks, analyses, calibration, plots and results in cards."""
