# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint of the original implementation (VamosC/CLIP4STR) into a folder for `from_pretrained`."""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import logging

from clip4str_hf import Clip4STRConfig, Clip4STRProcessor
from clip4str_hf.conversion_clip4str import convert_original_checkpoint, load_original_checkpoint


NORMALIZATIONS = {"clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), "half": ([0.5] * 3, [0.5] * 3)}


@dataclass
class ConversionArguments:
    checkpoint: Path = field(metadata={"help": "File of the original: a Lightning checkpoint, or bare weights."})
    output_dir: Path = field(metadata={"help": "Folder to write; it must not exist yet, or be empty."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Let the file run code of its own. Only if you trust its maker."}
    )
    image_normalization: Literal["clip", "half"] = field(
        default="clip",
        metadata={
            "help": "Mean and standard deviation of the pixels: CLIP's, with which the models were trained, or 0.5, "
            "with which the original computed its published figures."
        },
    )


def describe(config: Clip4STRConfig) -> str:
    towers = {"image tower": config.vision_config, "text tower": config.text_config}
    lines = [
        f"{name}: {tower.num_hidden_layers} layers, width {tower.hidden_size}, {tower.num_attention_heads} heads"
        for name, tower in towers.items()
    ]
    height, width = config.image_size
    lines += [
        f"images: {height} x {width} pixels, patches of {config.vision_config.patch_size}",
        f"decoders: {config.decoder_layers} layer(s), width {config.hidden_size}, "
        f"{config.decoder_attention_heads} heads, texts of up to {config.max_label_length} characters",
        f"charset: {len(config.charset)} characters, {config.charset}",
    ]
    return "\n".join(lines)


def convert(arguments: ConversionArguments):
    output_dir = arguments.output_dir.absolute()
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(f"{arguments.output_dir} exists and is not an empty folder.")
    state, hyper_parameters = load_original_checkpoint(arguments.checkpoint, arguments.allow_pickle)
    model = convert_original_checkpoint(state, hyper_parameters)
    mean, std = NORMALIZATIONS[arguments.image_normalization]
    processor = Clip4STRProcessor.from_config(model.config, image_mean=mean, image_std=std)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its destination and moved there as a whole, so that nobody ever finds half of it.
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as temporary:
        written = Path(temporary) / output_dir.name
        model.save_pretrained(written)
        processor.save_pretrained(written)
        if output_dir.exists():
            output_dir.rmdir()
        written.rename(output_dir)
    print(f"{describe(model.config)}\n{model.num_parameters():,} parameters written to {arguments.output_dir}")
    print(f"Read with it: python {Path(__file__).with_name('read.py')} --model {arguments.output_dir} IMAGE")


def main():
    (arguments,) = HfArgumentParser(ConversionArguments, description=__doc__).parse_args_into_dataclasses()
    logging.disable_progress_bar()
    try:
        convert(arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"{arguments.checkpoint} was not converted: {error}")


if __name__ == "__main__":
    main()
