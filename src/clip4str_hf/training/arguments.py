# SPDX-License-Identifier: Apache-2.0
"""The options of a training, and which of them do not go together."""

from dataclasses import MISSING, dataclass, field, fields

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from ..card_clip4str import is_hub_id


@dataclass
class ModelArguments:
    """Which reader to train: one of the first three, or, if none is given, the package's own."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "a trained reader: folder or Hub id"})
    clip_name_or_path: str | None = field(default=None, metadata={"help": "CLIP weights for the towers"})
    config_name: str | None = field(
        default=None, metadata={"help": "a reader whose configuration starts from nothing"}
    )
    charset: str | None = field(
        default=None,
        metadata={"help": "characters to read, if others than the reader's, or @FILE of them"},
    )
    max_label_length: int | None = field(
        default=None, metadata={"help": "characters of the longest text, if others than the reader's"}
    )
    caption_charset: str | None = field(
        default=None, metadata={"help": "characters that captions keep, by default the charset's letters and digits"}
    )
    caption_context_length: int | None = field(
        default=None, metadata={"help": "tokens of a caption, if others than the reader's"}
    )
    image_size: list[int] = field(
        default_factory=list,
        metadata={"help": "height and width of the images, if others than the reader's: wider ones for longer texts"},
    )
    do_align_long_axis: bool | None = field(
        default=None,
        metadata={"help": "turn tall images to the left before they are squashed; if not given, as the reader does"},
    )
    visual_only: bool | None = field(
        default=None,
        metadata={"help": "train and read with the visual branch alone; if not given, as the reader does"},
    )
    num_permutations: int | None = field(
        default=None, metadata={"help": "orderings of the loss, if not the reader's own number; fewer are faster"}
    )


@dataclass
class DataArguments:
    """What to train on: labelled crops, rendered words, or both."""

    train_data: list[str] = field(
        default_factory=list, metadata={"help": "folders of images with metadata.csv, LMDB, parquet, Hub ids"}
    )
    validation_data: str | None = field(default=None, metadata={"help": "as train_data"})
    validation_share: float = field(
        default=0.1, metadata={"help": "of the training words, held back where there is no validation_data"}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of sets of the Hub"})
    train_split: str | None = field(default=None, metadata={"help": "of train_data, by default the only one or train"})
    validation_split: str | None = field(
        default=None, metadata={"help": "of validation_data, by default the only one or validation"}
    )
    image_column: str = field(default="image", metadata={"help": "column of the images"})
    text_column: str | None = field(default=None, metadata={"help": "column of the texts, by default text or label"})
    streaming: bool = field(
        default=False,
        metadata={"help": "read train_data anew in each epoch, copy nothing"},
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "processes that copy and check words before the training"}
    )
    clean_labels: bool = field(
        default=True, metadata={"help": "clean labels up as the benchmarks do, into the reader's characters"}
    )
    augment: bool = field(default=True, metadata={"help": "RandAugment for text on the training words"})
    augment_magnitude: float = field(default=5.0, metadata={"help": "strength of it, 0 to 10"})
    fonts: list[str] = field(
        default_factory=list, metadata={"help": "font files and folders: render words to train on"}
    )
    plain_fonts: list[str] = field(default_factory=list, metadata={"help": "fonts of easy words"})
    words: str | None = field(default=None, metadata={"help": "file of words to render, one a line"})
    backgrounds: str | None = field(default=None, metadata={"help": "folder of pictures without text"})
    real_share: float = field(default=0.4, metadata={"help": "share of train_data among rendered words at the end"})
    plain_until: float = field(default=0.15, metadata={"help": "share of the training with easy words alone"})
    difficult_from: float = field(
        default=0.4, metadata={"help": "share from which words are as difficult as they get"}
    )


@dataclass
class TrainingArguments(Seq2SeqTrainingArguments):
    """How to train: the options of [`Seq2SeqTrainer`], some with other defaults, and one more."""

    learning_rate: float = field(default=1e-4, metadata={"help": "rate of the towers"})
    decoder_rate_factor: float = field(
        default=1.0, metadata={"help": "rate of the decoders over the towers' (paper: 19)"}
    )
    num_train_epochs: float = field(default=10.0, metadata={"help": "epochs, unless max_steps is given"})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "words of a training step and device"})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "words read at once and device"})
    warmup_steps: float = field(default=0.075, metadata={"help": "steps, or below 1 a share of them"})
    max_grad_norm: float = field(default=20.0, metadata={"help": "gradients are clipped to this norm"})
    bf16: bool | None = field(default=None, metadata={"help": "mixed precision, by default where the hardware has it"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to read the validation words"})
    eval_on_start: bool = field(default=True, metadata={"help": "read them before the first step too"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to write a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints to keep"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the best checkpoint, not the last"})
    metric_for_best_model: str = field(default="word_accuracy", metadata={"help": "what is best"})
    predict_with_generate: bool = field(default=True, metadata={"help": "validate by reading"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator takes its own columns"})
    report_to: str = field(default="none", metadata={"help": "tensorboard, wandb, .."})

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_bf16(self.use_cpu)
            # Without a GPU for it, transformers takes bf16 only with `use_cpu`.
            self.use_cpu = self.use_cpu or (self.bf16 and not is_torch_bf16_gpu_available())
        if not self.validates_by_reading and self.metric_for_best_model == "word_accuracy":
            self.metric_for_best_model = "loss"
        super().__post_init__()

    @property
    def validates_by_reading(self) -> bool:
        """Whether validation words are read, and not only their loss is computed."""
        return self.predict_with_generate and not self.prediction_loss_only


def has_bf16(use_cpu: bool) -> bool:
    """Whether the device that trains, the CPU or a GPU, is fast in bfloat16."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict[str, bool])()  # of newer torch only
    return capabilities.get("avx512_bf16", False)


def contradiction(model: ModelArguments, data: DataArguments, training: TrainingArguments) -> str | None:
    """
    What is wrong with options that do not go together, a message for the command line, or `None`. Otherwise that would
    be noticed late or not at all.
    """
    names = [model.model_name_or_path, model.clip_name_or_path, model.config_name]
    if sum(name is not None for name in names) > 1:
        return "give one of --model_name_or_path, --clip_name_or_path and --config_name"
    rendering = ("plain_fonts", "words", "backgrounds", "real_share", "plain_until", "difficult_from")
    if not data.train_data and not data.fonts:
        return "give --train_data, --fonts or both"
    if not data.fonts and (unused := changed(data, *rendering)):
        return f"--{unused[0]} is of rendered words, give --fonts too"
    if not data.train_data and (unused := changed(data, "real_share", "train_split")):
        return f"--{unused[0]} is of --train_data, give that too"
    if data.dataset_config_name is not None and not any(
        map(is_hub_id, [*data.train_data, data.validation_data or ""])
    ):
        return f"--dataset_config_name {data.dataset_config_name} is of sets of the Hub, and none is given"
    if data.streaming and data.fonts:
        return "--streaming does not go with --fonts: real words are drawn at random among the rendered ones"
    if data.validation_data is None and (data.streaming or not data.train_data):
        return "give --validation_data: rendered words and streams leave nothing to hold back"
    if data.validation_data is None and data.validation_split is not None:
        return "--validation_split is of --validation_data, give that too"
    if data.validation_data is not None and changed(data, "validation_share"):
        return "--validation_share holds training words back, --validation_data names others: give one of them"
    if not 0 < data.validation_share < 1:
        return f"--validation_share {data.validation_share} must lie between 0 and 1"
    if not data.augment and changed(data, "augment_magnitude"):
        return "--augment_magnitude does not go with --augment False"
    if data.augment and not data.fonts and training.dataloader_persistent_workers:
        return "--dataloader_persistent_workers would show each epoch the same augmentations"
    endless = endless_contradiction(data, training) if data.streaming or data.fonts else None
    return endless or trainer_contradiction(data, training)


def endless_contradiction(data: DataArguments, training: TrainingArguments) -> str | None:
    """Options that do not go with rendered words and streams."""
    if training.max_steps < 1:
        return "give --max_steps: rendered words and streams have no end"
    if "epoch" in (training.eval_strategy, training.save_strategy):
        # Rendered words are one long epoch; in a stream, each process ends its epoch at another time.
        return (
            "of rendered words and streams validate and save by steps: give --eval_strategy steps --eval_steps N "
            "--save_strategy steps --save_steps N"
        )
    if data.streaming and training.world_size > 1 and training.logging_strategy == "epoch":
        return "processes end their passes of a stream one by one: give --logging_strategy steps"
    if data.streaming and training.world_size > 1 and training.gradient_accumulation_steps > 1:
        return (
            "--gradient_accumulation_steps does not go with --streaming in several processes, which end their passes "
            "one by one, in the middle of a step: leave --streaming out"
        )
    return None


def trainer_contradiction(data: DataArguments, training: TrainingArguments) -> str | None:
    """Options that do not go with the trainer that is made here."""
    if training.n_gpu > 1:
        return f"start it on {training.n_gpu} devices with torchrun --nproc_per_node {training.n_gpu}"
    if training.label_smoothing_factor:
        return f"--label_smoothing_factor {training.label_smoothing_factor} must be 0: the loss is the model's"
    if unused := changed(training, "optim", "optim_args"):
        return f"--{unused[0]} does not apply: the optimizer is AdamW, with a rate for each part of the model"
    if training.save_total_limit == 1 and training.load_best_model_at_end:
        return (
            "--save_total_limit 1 would keep the best checkpoint alone, and the same command would go on from there, "
            "although all is done: give at least 2, or --load_best_model_at_end False"
        )
    if training.metric_for_best_model.removeprefix("eval_") not in ("loss", "word_accuracy", "one_minus_ned"):
        return f"--metric_for_best_model {training.metric_for_best_model} is none: loss, word_accuracy, one_minus_ned"
    if not training.validates_by_reading and training.metric_for_best_model.removeprefix("eval_") != "loss":
        return (
            f"--metric_for_best_model {training.metric_for_best_model} needs validation words that are read, but "
            "--predict_with_generate False or --prediction_loss_only is given"
        )
    if training.dataloader_drop_last:
        return "--dataloader_drop_last does not apply: the last validation words would be left out too"
    if data.fonts and training.ignore_data_skip:
        return "--ignore_data_skip does not apply: a run that goes on would begin with easy words again"
    if data.fonts and training.auto_find_batch_size:
        return "--auto_find_batch_size does not apply: smaller batches would end before the words get difficult"
    if data.fonts and changed(training, "train_sampling_strategy"):
        return "--train_sampling_strategy does not apply: rendered words have their order"
    return None


def changed(arguments, *names: str) -> list[str]:
    """Which of these arguments are not at their defaults."""
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(arguments)
    }
    return [name for name in names if getattr(arguments, name) != defaults[name]]


__all__ = ["DataArguments", "ModelArguments", "TrainingArguments", "changed", "contradiction", "has_bf16"]
