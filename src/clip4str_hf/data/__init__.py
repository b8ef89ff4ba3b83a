# SPDX-License-Identifier: Apache-2.0
"""Words to train and to evaluate on: loaded, cleaned up, augmented, rendered."""
