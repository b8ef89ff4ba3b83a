# SPDX-License-Identifier: Apache-2.0
"""The `image-to-text` pipeline."""

from transformers import Pipeline


class Clip4STRPipeline(Pipeline):
    """placeholder"""
