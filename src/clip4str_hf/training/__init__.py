# SPDX-License-Identifier: Apache-2.0
"""What the training recipes add to the `Trainer` of Transformers."""
