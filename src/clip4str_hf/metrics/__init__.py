# SPDX-License-Identifier: Apache-2.0
"""How well a reader reads: the protocol of the benchmarks, analyses, calibration, plots and results in cards."""
