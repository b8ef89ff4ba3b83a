# SPDX-License-Identifier: Apache-2.0
"""Model cards: those in the repository, and results in a card."""

import re
import runpy
from pathlib import Path

import pytest
from conftest import tiny_model
from huggingface_hub import EvalResult, ModelCard

from clip4str_hf.card_clip4str import reader_card
from clip4str_hf.metrics.benchmarks import BENCHMARKS
from clip4str_hf.metrics.evaluation import make_report
from clip4str_hf.metrics.model_index import add_results, load_card, to_eval_results, write_results
from clip4str_hf.sharing import problems_of_card


ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
WRITE = runpy.run_path(str(ROOT / "scripts" / "write_model_cards.py"))
RELEASED = {
    "clip4str-b16-mjst": ("IIIT5k", "97.70", "a5e3386222", "158 M"),
    "clip4str-l14-mjst": ("IC15_2077", "84.40", "3544c362f0", "446 M"),
    "clip4str-b16-real": ("IC15_1811", "91.44", "d70bde1f2d", "158 M"),
    "clip4str-l14-real": ("Uber", "87.36", "f125500adc", "446 M"),
    "clip4str-b16-datacomp-rbu": ("SVTP", "98.0", "6e9fe947ac", "158 M"),
    "clip4str-l14-datacomp-rbu": ("IC13_1015", "99.0", "3c9d881b88", "446 M"),
    "clip4str-h14-laion2b-rbu": ("CUTE80", "99.7", "5eef9f86e2", "1.0 B"),
    "clip4str-h14-dfn5b-rbu": ("COCOv1.4", "83.0", "3e942729b1", "1.0 B"),
}


def test_the_cards_are_those_that_follow_from_the_data(tmp_path):
    WRITE["write_cards"](tmp_path)
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(written) == {f"{name}.md" for name in [*RELEASED, "clip4str-small", "fine-tuned"]}
    assert written == {name: (CARDS / name).read_text(encoding="utf-8") for name in written}


@pytest.mark.parametrize("name", [*RELEASED, "clip4str-small"])
def test_a_card_is_complete(name):
    card = ModelCard.load(CARDS / f"{name}.md")
    assert problems_of_card(card) == []
    assert card.data.language == "en" and card.data.metrics == ["accuracy"]
    assert card.data.model_name == name and f"# {name}" in card.text
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", dataset) for dataset in card.data.datasets)
    assert card.data.eval_results and all("36 lower-case" in result.metric_name for result in card.data.eval_results)


@pytest.mark.parametrize("name", RELEASED)
def test_a_card_of_the_originals_says_what_is_published(name):
    card = ModelCard.load(CARDS / f"{name}.md")
    results = {result.dataset_type: result for result in card.data.eval_results}
    # One version of ICDAR 2013, and both of ICDAR 2015, each under its own name.
    assert set(results) == set(BENCHMARKS) - {"IC13_857"}
    assert all(
        result.dataset_name == f"{benchmark} ({BENCHMARKS[benchmark]} words)" for benchmark, result in results.items()
    )
    assert {result.source_url for result in results.values()} == {"https://github.com/VamosC/CLIP4STR"}
    assert {result.metric_args["image_normalization"] for result in results.values()} == {"half"}
    table = dict(re.findall(r"^\| (\w\S+) \| \d+ \| ([\d.]+) \|$", card.text, flags=re.MULTILINE))
    assert {benchmark: float(figure) for benchmark, figure in table.items()} == {
        benchmark: result.metric_value for benchmark, result in results.items()
    }
    benchmark, figure, file, parameters = RELEASED[name]
    assert table[benchmark] == figure
    assert file in card.text and f"| parameters | {parameters}, of" in card.text
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert "licence of these weights is not stated" in card.text and "made by those authors" in card.text
    assert "--image-normalization half" in card.text and card.data.base_model in card.text


def report(refine_iters=1, split=None, **sets):
    """What an evaluation of sets with so many words, so many of them read, gives under 36 and 62 characters."""
    counts = {"mean_confidence": 0.5, "unreadable": 0, "empty_labels": 0, "long_labels": 0}
    found = {
        name: {
            charset: counts | {"words": words, "word_accuracy": read and read / words, "one_minus_ned": 0.98765}
            for charset in ("36", "62")
        }
        for name, (words, read) in sets.items()
    }
    options = {
        "sources": {name: f"data/{name}/lmdb" for name in sets},
        "splits": dict.fromkeys(sets, split),
        "refine_iters": refine_iters,
        "visual_only": False,
        "dtype": "float32",
    }
    return make_report("my-reader", options, found | {"HOST": None})


def under(charset, **options):
    """A report of one charset alone."""
    found = report(**options)
    for figures in filter(None, found["sets"].values()):
        figures["charsets"] = {charset: figures["charsets"]["36"]}
    return found


def test_results_carry_their_protocol():
    results = to_eval_results(report(SVT=(647, 600), none=(0, None)))
    assert [(result.metric_name, result.metric_type, result.metric_value) for result in results] == [
        ("Word accuracy in %, 36 lower-case letters and digits", "accuracy", 92.74),
        ("1 - NED in %, 36 lower-case letters and digits", "one_minus_ned", 98.77),
        ("Word accuracy in %, 62 letters and digits", "accuracy", 92.74),
        ("1 - NED in %, 62 letters and digits", "one_minus_ned", 98.77),
    ]
    assert {(result.dataset_type, result.dataset_name) for result in results} == {("SVT", "SVT (647 words)")}
    assert results[0].metric_args == {"refine_iters": 1, "visual_only": False, "dtype": "float32"}
    on_the_hub = report(words=(10, 5))
    on_the_hub["options"]["sources"]["words"] = "me/words"
    assert to_eval_results(on_the_hub)[0].dataset_type == "me/words"


def test_a_card_is_made_and_keeps_what_was_measured_before(tmp_path):
    path, model = tmp_path / "my-reader" / "README.md", tiny_model()
    write_results(path, report(SVT=(647, 600), mine=(10, 5)), model)
    write_results(path, report(SVT=(647, 610), refine_iters=2), model)
    write_results(path, report(mine=(11, 11)), model)
    write_results(path, report(SVT=(647, 620)), model)
    card = load_card(path)
    accuracies = {
        (result.dataset_name, result.metric_args["refine_iters"]): result.metric_value
        for result in card.data.eval_results
        if result.metric_name.startswith("Word accuracy in %, 36")
    }
    # Other words under the same name have taken their place.
    assert accuracies == {("SVT (647 words)", 2): 94.28, ("mine (11 words)", 1): 100.0, ("SVT (647 words)", 1): 95.83}
    rows = [line for line in card.text.splitlines() if "refine_iters" in line]
    assert "| SVT (647 words) | refine_iters 1, visual_only False, dtype float32 | 95.83 | 98.77 |" in rows[2]
    assert len(rows) == 3 and "92.74" not in card.content and card.text.count("| set |") == 1
    assert card.data.model_name == "my-reader" and card.data.metrics == ["accuracy"]
    assert "Results: to be filled in" not in problems_of_card(card)


def test_results_of_other_characters_are_of_other_numbers_of_words(tmp_path):
    path, model = tmp_path / "README.md", tiny_model()
    write_results(path, under("36", plates=(9, 6)), model)
    write_results(path, under("exact", plates=(10, 5)), model)
    write_results(path, under("36", refine_iters=2, plates=(9, 7)), model)
    found = {
        (result.dataset_name, result.dataset_config, result.metric_args["refine_iters"]): result.metric_value
        for result in load_card(path).data.eval_results
        if result.metric_type == "accuracy"
    }
    assert found == {
        ("plates (9 words)", "36", 1): 66.67,
        ("plates (10 words)", "exact", 1): 50.0,
        ("plates (9 words)", "36", 2): 77.78,
    }


def test_a_card_with_a_text_of_its_own_keeps_it(tmp_path):
    path = tmp_path / "README.md"
    text = "# Plates\n\nMine \\1, and a table:\n\n| set | mine |\n"
    path.write_text(f"---\nlicense: mit\nextra: kept\nmetrics: [cer]\n---\n{text}", encoding="utf-8")
    write_results(path, report(SVT=(647, 600)), tiny_model())
    card = load_card(path)
    assert card.text == text and card.data.model_name == "Plates"
    assert (card.data.license, card.data["extra"], card.data.metrics) == ("mit", "kept", ["cer", "accuracy"])
    assert len(card.data.eval_results) == 4


def test_what_is_no_card_is_refused_by_name(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\nlicense: [\n---\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md is no model card"):
        write_results(path, report(SVT=(647, 600)), tiny_model())
    assert path.read_text(encoding="utf-8") == "---\nlicense: [\n---\n"


def test_a_long_charset_and_a_base_model_in_a_card():
    model = tiny_model(charset=[chr(0x4E00 + index) for index in range(300)])
    model.config.name_or_path = "me/base"
    card = reader_card(model, "kanji", "me/kanji", training_data="My words.")
    assert card.data.base_model == "me/base" and "[me/base](https://huggingface.co/me/base)" in card.text
    assert "of the 300 characters" in card.text and chr(0x4E00 + 199) + "..\n" in card.text
    assert "Training data: to be filled in" not in problems_of_card(card)
    assert reader_card(model, "base", "me/base").data.base_model is None


def test_a_card_tells_of_the_branches_that_are_there():
    both = reader_card(tiny_model(), "both").text
    assert "a cross-modal branch reads" in both and "| text tower | " in both and "| decoders | one for each" in both
    one = reader_card(tiny_model(cross_modal_loss_weight=0.0), "one").text
    assert "cross-modal" not in one and "text tower" not in one and "| decoder | one, of depth" in one
    tables = [re.search(r"\| \| \|\n((?:\|.*\n)+)\n", text)[1].count("\n") for text in (both, one)]
    assert tables == [7, 6]


def test_published_results_are_kept_beside_measured_ones():
    card = ModelCard.load(CARDS / "clip4str-b16-real.md")
    published = card.data.eval_results[:]
    add_results(card, to_eval_results(report(split="test", SVT=(647, 600))))
    assert card.data.eval_results[:12] == published and len(card.data.eval_results) == 16
    assert all(isinstance(result, EvalResult) for result in ModelCard(card.content).data.eval_results)
