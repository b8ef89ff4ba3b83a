# SPDX-License-Identifier: Apache-2.0
"""From options to a trainer: the reader, its words and its optimizer."""

import logging
from typing import Any

import torch
from datasets import Dataset, IterableDataset, concatenate_datasets

from .. import default_checkpoint
from ..card_clip4str import is_hub_id
from ..configuration_clip4str import Clip4STRConfig
from ..data.augmentation import TextAugmentation
from ..data.charset import read_charset, read_lines
from ..data.curriculum import WordCurriculum
from ..data.rendering import WordRenderer
from ..data.words import clean_words, load_words
from ..metrics.protocol import word_metrics
from ..modeling_clip4str import Clip4STRForSceneTextRecognition
from ..processing_clip4str import Clip4STRProcessor
from ..reading import load_reader
from .arguments import DataArguments, ModelArguments, TrainingArguments
from .collator import DataCollatorForTextRecognition
from .column_supervision import ColumnSupervisedTrainer, DataCollatorForColumnSupervision
from .optimization import optimizer_groups
from .reader_trainer import ReaderTrainer


logger = logging.getLogger(__name__)


def make_reader(arguments: ModelArguments) -> tuple[Clip4STRForSceneTextRecognition, Clip4STRProcessor]:
    """
    The reader that is to be trained, in float32 and with the characters and sizes that were asked for, and its
    processor.

    Raises:
        ValueError: if there is no such reader or CLIP, or what was asked for does not fit it.
    """
    model, processor = choose_reader(arguments)
    if arguments.do_align_long_axis is not None:
        processor.image_processor.do_align_long_axis = arguments.do_align_long_axis
    return model, processor


def choose_reader(arguments: ModelArguments) -> tuple[Clip4STRForSceneTextRecognition, Clip4STRProcessor]:
    """A trained reader, one made from CLIP, or a new one of the sizes of another."""
    texts = text_options(arguments)
    options: dict[str, Any] = {}
    if arguments.visual_only is not None:
        options["cross_modal_loss_weight"] = 0.0 if arguments.visual_only else 1.0
    if arguments.num_permutations is not None:
        options["num_permutations"] = arguments.num_permutations
    if arguments.image_size:
        options["image_size"] = arguments.image_size
    if arguments.clip_name_or_path is not None:
        model = Clip4STRForSceneTextRecognition.from_clip_pretrained(
            arguments.clip_name_or_path, dtype=torch.float32, **texts, **options
        )
        image_processor = Clip4STRProcessor.from_clip_processor(arguments.clip_name_or_path).image_processor
        return model, Clip4STRProcessor.from_config(model.config, image_processor)
    if arguments.config_name is not None:
        # The sizes of a reader, but not the temperature that was fitted to its weights.
        new = {"confidence_temperature": 1.0, "dtype": "float32"}
        config = Clip4STRConfig.from_pretrained(arguments.config_name, **new, **texts, **options)
        return Clip4STRForSceneTextRecognition(config), make_processor(config, arguments.config_name)
    # In float32, whatever it was saved in: in half precision most steps are too small to change a weight.
    name = arguments.model_name_or_path or default_checkpoint()
    model, processor = load_reader(name, dtype=torch.float32, **options)
    if texts:
        model.resize_charset(**texts)
        processor = processor.adapted_to(model.config)
    return model, processor


def make_processor(config: Clip4STRConfig, name: str) -> Clip4STRProcessor:
    """The processor saved with a configuration, adapted to what is read now, or a new one if there is none."""
    try:
        processor = Clip4STRProcessor.from_pretrained(name)
    except OSError:
        return Clip4STRProcessor.from_config(config)
    return processor.adapted_to(config)


def text_options(arguments: ModelArguments) -> dict:
    """The options given for what the reader is to read; for the rest it stays as it is."""
    names = ("charset", "max_label_length", "caption_charset", "caption_context_length")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    options |= {name: read_charset(options[name]) for name in ("charset", "caption_charset") if name in options}
    return options


def load_clean(
    source: str,
    split: str | None,
    default_split: str,
    processor: Clip4STRProcessor,
    arguments: DataArguments,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """The words of a source that can be trained on; what is left out, and why, is logged."""
    num_proc = None if streaming else arguments.preprocessing_num_workers
    has_configurations = arguments.dataset_config_name is not None and is_hub_id(source)
    options = {"name": arguments.dataset_config_name} if has_configurations else {}
    columns = {"image_column": arguments.image_column, "text_column": arguments.text_column}
    words = load_words(source, split, streaming, default_split, num_proc=num_proc, **columns, **options)
    words, report = clean_words(words, processor, arguments.clean_labels, num_proc)
    if not streaming:
        if not len(words):
            raise ValueError(f"{source}: no words are left.\n{report}")
        logger.info("%s: %s", source, report)
    return words


def load_data(arguments: DataArguments, processor: Clip4STRProcessor, seed: int):
    """Training words, or `None` if all are rendered, and validation words."""
    parts = [
        load_clean(source, arguments.train_split, "train", processor, arguments, arguments.streaming)
        for source in arguments.train_data
    ]
    train = concatenate_datasets(parts) if parts else None
    if arguments.streaming:
        train = train.shuffle(seed=seed, buffer_size=10_000)
    if arguments.validation_data is not None:
        # Never a stream: processes would get unequal parts of it.
        validation = arguments.validation_data, arguments.validation_split, "validation"
        return train, load_clean(*validation, processor, arguments)
    if len(train) < 2:
        raise ValueError(f"{arguments.train_data}: {len(train)} word is left, none can be held back to validate.")
    parts = train.train_test_split(test_size=arguments.validation_share, seed=seed)
    return parts["train"], parts["test"]


def make_curriculum(
    arguments: DataArguments, training: TrainingArguments, model, real_words, augmentation
) -> WordCurriculum:
    """Rendered words from easy to difficult, with real ones among them, for as many steps as are trained."""
    renderer = WordRenderer(
        arguments.fonts,
        arguments.words and read_lines(arguments.words),
        charset=model.config.charset,
        backgrounds=arguments.backgrounds,
        plain_fonts=arguments.plain_fonts or None,
        max_length=model.config.max_label_length,
        seed=training.seed,
    )
    step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return WordCurriculum(
        renderer,
        num_words=training.max_steps * step,
        real_words=real_words,
        real_share=arguments.real_share,
        plain_until=arguments.plain_until,
        difficult_from=arguments.difficult_from,
        augmentation=augmentation,
        seed=training.seed,
    )


def make_trainer(model, processor, arguments: DataArguments, training: TrainingArguments) -> ReaderTrainer:
    """
    The trainer of a reader on labelled crops, rendered words or both, by options that go together (`contradiction`).

    Args:
        model ([`Clip4STRForSceneTextRecognition`]), processor ([`Clip4STRProcessor`]): of [`make_reader`].
        arguments ([`DataArguments`]): the words.
        training ([`TrainingArguments`]): the training.

    Raises:
        ImportError: if words are in LMDB and the lmdb library is missing.
        ValueError: if words cannot be loaded, or none are left to train on or to validate with.
    """
    with training.main_process_first():
        train_words, validation_words = load_data(arguments, processor, training.seed)
    augmentation, callbacks = None, []
    trainer_class: type[ReaderTrainer]
    collator: DataCollatorForTextRecognition
    if arguments.augment:
        augmentation = TextAugmentation(
            magnitude=arguments.augment_magnitude,
            seed=training.seed,
            do_align_long_axis=processor.image_processor.do_align_long_axis,
        )
    if arguments.fonts:
        trainer_class = ColumnSupervisedTrainer
        num_columns = model.config.image_size[1] // model.config.vision_config.patch_size
        collator = DataCollatorForColumnSupervision(processor, num_columns=num_columns)
        train_words = make_curriculum(arguments, training, model, train_words, augmentation)
        training.train_sampling_strategy = "sequential"
    else:
        trainer_class, collator = ReaderTrainer, DataCollatorForTextRecognition(processor)
        if augmentation is not None:
            train_words = augment(train_words, augmentation)
            callbacks.append(augmentation)
    if training.bf16 and training.device.type == "cpu":
        model.set_attn_implementation("eager")  # the fused attention has a slow backward in bf16 there
    # Each process reads its own part of a stream; batches handed out by one process would need labels of one length.
    training.accelerator_config.dispatch_batches = False
    return trainer_class(
        model,
        training,
        collator,
        train_words,
        validation_words,
        processor,
        compute_metrics=word_metrics(processor, None) if training.predict_with_generate else None,
        callbacks=callbacks,
        optimizers=(make_optimizer(model, training), None),
    )


def augment(words: Dataset | IterableDataset, augmentation: TextAugmentation) -> Dataset | IterableDataset:
    """Words that are augmented anew each time they are read."""
    if isinstance(words, Dataset):
        return words.with_transform(augmentation.transform)
    return words.map(augmentation.transform, batched=True, batch_size=100)


def make_optimizer(model, training: TrainingArguments) -> torch.optim.Optimizer:
    """AdamW, with the rates of towers and decoders."""
    model.to(training.device)
    groups = optimizer_groups(model, training.learning_rate, training.weight_decay, training.decoder_rate_factor)
    return torch.optim.AdamW(groups, betas=(training.adam_beta1, training.adam_beta2), eps=training.adam_epsilon)


__all__ = ["make_reader", "make_trainer"]
