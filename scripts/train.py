# SPDX-License-Identifier: Apache-2.0
"""Trains a reader: a trained one on new words, one made from CLIP, or one from scratch."""

import logging
import sys

from datasets.exceptions import DatasetsError
from transformers import HfArgumentParser, set_seed

from clip4str_hf.card_clip4str import is_hub_id
from clip4str_hf.training.arguments import DataArguments, ModelArguments, TrainingArguments, contradiction
from clip4str_hf.training.checkpoints import check_goes_on, last_checkpoint, steps_of
from clip4str_hf.training.reader_trainer import ReaderTrainer
from clip4str_hf.training.recipe import make_reader, make_trainer


logger = logging.getLogger(__name__)


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments), description=__doc__)
    try:
        model_arguments, data_arguments, training = parser.parse_args_into_dataclasses()
    except ValueError as error:  # from options that `TrainingArguments` does not take together
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO if training.should_log else logging.WARNING, format="%(message)s")
    problem = contradiction(model_arguments, data_arguments, training)
    if problem:
        parser.error(problem)
    try:
        set_seed(training.seed)
        model, processor = make_reader(model_arguments)
        checkpoint = training.resume_from_checkpoint or last_checkpoint(training.output_dir)
        if checkpoint:
            check_goes_on(checkpoint, model.config)
        # Read now, because later checkpoints may take its place.
        steps_before = steps_of(checkpoint) if checkpoint else 0
        trainer = make_trainer(model, processor, data_arguments, training)
    except (DatasetsError, ImportError, OSError, ValueError) as error:  # ImportError: no LMDB library
        sys.exit(str(error))
    if checkpoint:
        logger.warning("The training of %s goes on; another one needs another output_dir.", checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.state.global_step:
        sys.exit(f"Nothing was trained: no words are left of {data_arguments.train_data}.")
    if trainer.state.global_step == steps_before:
        logger.warning("Nothing was trained: %s is the end of that training.", checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    # For the card, which names only what others can find.
    clip = model_arguments.clip_name_or_path
    sources = {
        "finetuned_from": clip if clip and is_hub_id(clip) else None,
        "dataset_tags": [source for source in data_arguments.train_data if is_hub_id(source)],
    }
    if training.push_to_hub:
        trainer.push_to_hub(**sources)
    else:
        trainer.create_model_card(**sources)
    leave_group(trainer)


def leave_group(trainer: ReaderTrainer):
    """
    Closes what connects several processes: a process that ends with it still open may break off in its last moment.
    The wrapper that shared the gradients goes first. It holds the connection, whose threads may still want to free
    Python's objects, and one that is freed last waits for them without letting them.
    """
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
