# SPDX-License-Identifier: Apache-2.0
"""
Writes those parts of the model cards that follow from data: the cards of the original's checkpoints, the template for
a fine-tuned reader, and the metadata of the card of the package's own reader, from the table of results in that card.
"""

import argparse
import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import logging

from clip4str_hf import Clip4STRForSceneTextRecognition, default_checkpoint
from clip4str_hf.card_clip4str import add_metadata, reader_card
from clip4str_hf.metrics.benchmarks import BENCHMARKS
from clip4str_hf.metrics.model_index import CHARSET_DESCRIPTIONS, TASK, load_card


MODEL_CARDS = Path(__file__).resolve().parents[1] / "model_cards"
WORD_ACCURACY = {"metric_type": "accuracy", "metric_name": f"Word accuracy in %, {CHARSET_DESCRIPTIONS['36']}"}


def released_card(checkpoint: dict, data: dict) -> ModelCard:
    """The card of one of the original's checkpoints."""
    training = data["training_data"][checkpoint["training_data"]]
    results = [
        EvalResult(
            **TASK | WORD_ACCURACY,
            dataset_type=name,
            dataset_name=f"{name} ({BENCHMARKS[name]} words)",
            dataset_split="test",
            metric_value=float(figure),
            metric_args={"image_normalization": "half"},
            source_name="published by the authors",
            source_url=data["published_in"],
        )
        for name, figure in checkpoint["word_accuracy"].items()
    ]
    card_data = ModelCardData(
        model_name=checkpoint["name"],
        language="en",
        license="other",
        license_name="not-stated",
        license_link=checkpoint["download"],
        base_model=checkpoint["base_model"],
        datasets=training["datasets"],
        metrics=["accuracy"],
        eval_results=results,
    )
    add_metadata(card_data)
    return ModelCard.from_template(
        card_data,
        template_path=str(MODEL_CARDS / "released_checkpoint.template.md"),
        name=checkpoint["name"],
        checkpoint=checkpoint,
        size=data["sizes"][checkpoint["size"]],
        training=training,
        clip_licence=data["clip_licences"][checkpoint["clip_data"]],
        published_in=data["published_in"],
        benchmarks=BENCHMARKS,
    )


def shipped_results(text: str) -> list[EvalResult]:
    """The results of the default reading: the first row of the first table whose first column is headed `reading`."""
    lines = text.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| reading |"))
    names, figures = ([cell.strip() for cell in lines[line].strip("| ").split("|")][1:] for line in (head, head + 2))
    return [
        EvalResult(
            **TASK | WORD_ACCURACY,
            dataset_type=name.partition(" (")[0],
            dataset_name=name.replace(")", " held-back words of its training split)"),
            dataset_split="train",
            metric_value=float(figure),
        )
        for name, figure in zip(names, figures)
        if not name.startswith("all")
    ]


def write_cards(folder: Path):
    data = json.loads((MODEL_CARDS / "released_checkpoints.json").read_text(encoding="utf-8"))
    for checkpoint in data["checkpoints"]:
        released_card(checkpoint, data).save(folder / f"{checkpoint['name']}.md")

    reader = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    reader_card(reader, "my-reader").save(folder / "fine-tuned.md")

    shipped = load_card(MODEL_CARDS / "clip4str-small.md")
    shipped.data.model_name = "clip4str-small"
    shipped.data.eval_results = shipped_results(shipped.text)
    shipped.save(folder / "clip4str-small.md")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=MODEL_CARDS, help="(default: model_cards)")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_cards(arguments.output_dir)


if __name__ == "__main__":
    main()
