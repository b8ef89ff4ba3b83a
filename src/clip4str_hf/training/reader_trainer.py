# SPDX-License-Identifier: Apache-2.0
"""The trainer of `scripts/train.py`: transformers' own, with a model card that describes the reader."""

import os
import re
from functools import cached_property

from huggingface_hub import ModelCard
from transformers import Seq2SeqTrainer
from transformers.utils import logging

from ..card_clip4str import MISSING, NO_REPO, TAGS, has_card, reader_card


logger = logging.get_logger(__name__)

# The parts of the card that `Trainer` writes that are worth keeping.
RESULTS = re.compile(r"It achieves the following results on the evaluation set:\n.*?(?=\n\n)", flags=re.DOTALL)
PROCEDURE = re.compile(r"(?<=## Training procedure\n\n).*", flags=re.DOTALL)


class ReaderTrainer(Seq2SeqTrainer):
    """
    [`Seq2SeqTrainer`] with two differences. Its `create_model_card`, and so `push_to_hub`, writes the card of a
    reader: what it is, how to read with it, and how it was trained. `Trainer`'s own draft mistakes a reader that was
    loaded from a folder for one trained from scratch, and the format its words were stored in ("imagefolder") for the
    name of a data set. And when several processes validate, each word is counted once.
    """

    def evaluation_loop(self, *args, **kwargs):
        # `Seq2SeqTrainer` counts the words twice that are repeated to give all processes equally many.
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)

    def create_model_card(self, *args, dataset_tags=None, dataset_args=None, **kwargs):
        """
        Writes `README.md` into the output folder; the arguments are those of [`Trainer`]. A card that was there before
        this training, or in the repository that it is pushed to, is kept.
        """
        if not self.is_world_process_zero():
            return
        if self._has_older_card:
            logger.warning("%s stays as it is: without it there would be a new one.", self._card_path)
            return
        super().create_model_card(*args, dataset_tags=dataset_tags or [], dataset_args=dataset_args or [], **kwargs)
        path = self._card_path
        draft = ModelCard.load(path)
        results, procedure = RESULTS.search(draft.text), PROCEDURE.search(draft.text)
        name = draft.data.model_name or os.path.basename(os.path.abspath(self.args.output_dir))
        card = reader_card(
            self.accelerator.unwrap_model(self.model),
            name,
            self.hub_model_id or self.args.hub_model_id or NO_REPO,
            draft.data.base_model,
            results=results[0] if results else MISSING,
            training_procedure=procedure[0].strip() if procedure else MISSING,
        )
        known = draft.data.to_dict() | {"tags": [*TAGS, *(tag for tag in draft.data.tags if tag not in TAGS)]}
        known.pop("model-index", None)  # empty, or figures without their protocol
        for field, value in known.items():
            card.data[field] = value
        if results and "Word Accuracy" in results[0]:
            card.data.metrics = ["accuracy"]
        card.save(path)

    @property
    def _card_path(self) -> str:
        return os.path.join(self.args.output_dir, "README.md")

    @cached_property
    def _has_older_card(self) -> bool:
        """Whether there was a card before this training wrote its first one: somebody may have completed it."""
        is_on_hub = self.args.push_to_hub and has_card(self.hub_model_id, self.args.hub_token)
        return is_on_hub or os.path.exists(self._card_path)


__all__ = ["ReaderTrainer"]
