# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation in a model card: in its metadata (`model-index`) and as a table in its text."""

import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from ..card_clip4str import is_hub_id, reader_card
from .benchmarks import BENCHMARKS
from .tables import markdown_table


TASK = {"task_type": "image-to-text", "task_name": "Scene Text Recognition"}
# The figures of a report that go into a card: their name there, and the Hub's type of metric.
METRICS = {"word_accuracy": ("Word accuracy", "accuracy"), "one_minus_ned": ("1 - NED", "one_minus_ned")}
# The options of a report that say how the words were read.
READING = ("refine_iters", "visual_only", "dtype")
CHARSET_DESCRIPTIONS = {
    "36": "36 lower-case letters and digits",
    "62": "62 letters and digits",
    "94": "94 printable ASCII characters",
    "exact": "as they are",
}
# The part of a card's text that is generated from its results; the rest is up to its author.
RESULTS_TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=\n<!-- end of results -->)", flags=re.DOTALL)


def to_eval_results(report: dict) -> list[EvalResult]:
    """
    The results of a report in the form of the Hub's cards: word accuracy and 1 - NED in %, with the protocol in their
    names and how the words were read in their arguments.

    Args:
        report (`dict`): what [`make_report`] gives. Sets without words are left out.
    """
    options = report["options"]
    return [
        EvalResult(
            **TASK,
            dataset_type=_dataset_type(name, options["sources"].get(name)),
            dataset_name=f"{name} ({figures['words']} words)",
            # Each charset counts another number of words; without this the Hub would take them for one set.
            dataset_config=charset,
            dataset_split=options.get("splits", {}).get(name),
            metric_type=metric_type,
            metric_name=f"{metric_name} in %, {CHARSET_DESCRIPTIONS[charset]}",
            metric_value=round(100 * figures[figure], 2),
            metric_args={option: options[option] for option in READING if option in options},
        )
        for name, found in report["sets"].items()
        for charset, figures in (found["charsets"] if found else {}).items()
        if figures["words"]
        for figure, (metric_name, metric_type) in METRICS.items()
    ]


def add_results(card: ModelCard, results: list[EvalResult]):
    """
    Puts results into a card's metadata, and into its text if that has a place for them (as [`reader_card`] makes it).
    Results of the same words and figure, read the same way, are replaced, and those of the same set with another
    number of words are removed; others stay.

    Args:
        card (`ModelCard`): changed in place.
        results (`list[EvalResult]`): what was measured; with none the card stays as it is.
    """
    if not results:
        return
    same_words = {_words(result): result.dataset_name for result in results}
    measured = {_identity(result) for result in results}
    kept = [
        result
        for result in card.data.eval_results or []
        # A set that now has another number of words is another set: its old results go.
        if _identity(result) not in measured
        and same_words.get(_words(result), result.dataset_name) == result.dataset_name
    ]
    card.data.eval_results = kept + results
    card.data.model_name = card.data.model_name or _title(card)
    metrics = card.data.metrics or []
    card.data.metrics = metrics + ["accuracy"] * ("accuracy" not in metrics)
    table = results_table(card.data.eval_results)
    card.text = RESULTS_TABLE.sub(lambda found: table, card.text)


def results_table(results: list[EvalResult]) -> str:
    """Results in Markdown: a row for each set and way of reading, a column for each figure, dashes for none."""
    figures = list(dict.fromkeys(result.metric_name for result in results))
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for result in results:
        reading = ", ".join(f"{name} {value}" for name, value in (result.metric_args or {}).items())
        rows.setdefault((result.dataset_name, reading), {})[result.metric_name] = result.metric_value
    body = [[*key, *(str(row.get(figure, "-")) for figure in figures)] for key, row in rows.items()]
    return markdown_table([["set", "read with", *figures], *body], text_columns=2)


def write_results(path: str | os.PathLike, report: dict, model):
    """
    Puts the results of a report into the card at `path`, which is created if there is none.

    Args:
        path (`str` or `os.PathLike`): a `README.md`, in the reader's folder or elsewhere.
        report (`dict`): what [`make_report`] gives.
        model ([`Clip4STRForSceneTextRecognition`]): the reader, which a new card describes.

    Raises:
        ValueError: if the file exists and is not a card.
    """
    path = Path(path)
    card = load_card(path) if path.exists() else reader_card(model, path.absolute().parent.name)
    add_results(card, to_eval_results(report))
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path)


def load_card(path: str | os.PathLike) -> ModelCard:
    """
    The card at `path`.

    Raises:
        ValueError: if it cannot be read; the message names it.
    """
    try:
        return ModelCard(Path(path).read_text(encoding="utf-8"))
    except Exception as error:  # the parsers of YAML and of model-index raise nearly anything
        raise ValueError(f"{path} is no model card: {error}") from error


def _dataset_type(name: str, source: str | None) -> str:
    return source if source and is_hub_id(source) and name not in BENCHMARKS else name


def _words(result: EvalResult) -> tuple:
    return result.dataset_type, result.dataset_config, result.dataset_split


def _identity(result: EvalResult) -> tuple:
    return *_words(result), result.metric_name, tuple(sorted((result.metric_args or {}).items()))


def _title(card: ModelCard) -> str:
    found = re.search(r"^# (.+)$", card.text, flags=re.MULTILINE)
    return found[1] if found else "reader"


__all__ = ["add_results", "load_card", "results_table", "to_eval_results", "write_results"]
