# SPDX-License-Identifier: Apache-2.0
"""Accuracy by length, confusions and calibration: figures worked out by hand."""

import json

import pytest

from clip4str_hf.metrics.analysis import (
    LengthBin,
    ReliabilityBin,
    WordAnalysis,
    accuracy_by_length,
    confused_characters,
    expected_calibration_error,
    reliability_bins,
)
from clip4str_hf.metrics.protocol import WordTally


@pytest.mark.parametrize(
    ("prediction", "label", "confusions"),
    [
        ("Exit", "Exit", []),
        ("Pharnacy", "Pharmacy", [("m", "n")]),
        ("LOO", "L00", [("0", "O"), ("0", "O")]),
        ("SEPHORA", "SEPHORAS", [("S", "")]),
        ("Exitt", "xit", [("", "E"), ("", "t")]),
        ("", "ab", [("a", ""), ("b", "")]),
        ("b", "", [("", "b")]),
    ],
)
def test_confusions_are_the_edits_between_label_and_prediction(prediction, label, confusions):
    assert sorted(confused_characters(prediction, label)) == sorted(confusions)


def test_accuracy_is_counted_by_the_length_of_labels():
    rows = accuracy_by_length([4, 2, 4, 4, 11], [True, False, False, True, True])
    assert rows == [LengthBin(2, 1, 0), LengthBin(4, 3, 2), LengthBin(11, 1, 1)]
    assert accuracy_by_length([], []) == []
    with pytest.raises(ValueError):
        accuracy_by_length([1, 2], [True])


def test_bins_of_the_reliability_diagram_by_hand():
    # In (0.75, 1]: 0.8, 0.9, 1.0, two of three right. In [0, 0.25]: 0.0 and 0.25, one right. In (0.25, 0.5]: 0.3.
    confidences, correct = [0.8, 0.0, 0.9, 0.3, 1.0, 0.25], [True, False, True, False, False, True]
    bins = reliability_bins(confidences, correct, bins=4)
    assert [(row.low, row.high, row.words) for row in bins] == [
        (0.0, 0.25, 2),
        (0.25, 0.5, 1),
        (0.5, 0.75, 0),
        (0.75, 1.0, 3),
    ]
    assert [row.accuracy for row in bins] == [0.5, 0.0, None, pytest.approx(2 / 3)]
    assert [row.mean_confidence for row in bins] == [0.125, 0.3, None, pytest.approx(0.9)]
    # Gaps 0.375, 0.3 and 0.9 - 2/3, weighted by 2, 1 and 3 of 6 words.
    expected = (2 * 0.375 + 0.3 + 3 * (0.9 - 2 / 3)) / 6
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_the_calibration_error_knows_its_ends():
    def error(confidences, correct, bins=10):
        return expected_calibration_error(reliability_bins(confidences, correct, bins))

    assert error([1.0, 1.0, 0.0], [True, True, False]) == 0
    assert error([1.0, 0.0], [False, True]) == 1
    assert error([0.5] * 4, [True, False, True, False]) == 0
    # One bin hides what two show.
    assert error([0.2, 0.8], [True, False], bins=1) == pytest.approx(0)
    assert error([0.2, 0.8], [True, False], bins=2) == pytest.approx(0.8)
    assert error([], []) is None
    assert reliability_bins([], [], 2) == [
        ReliabilityBin(0.0, 0.5, 0, None, None),
        ReliabilityBin(0.5, 1.0, 0, None, None),
    ]


def test_an_edge_belongs_to_the_bin_below_it():
    confidences = [index / 10 for index in range(11)]
    assert [row.words for row in reliability_bins(confidences, [True] * 11)] == [2] + [1] * 9


def test_what_cannot_be_binned_is_said():
    with pytest.raises(ValueError, match="bins=0 must be at least 1"):
        reliability_bins([0.5], [True], 0)
    for confidence in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"{confidence} does not lie in 0 to 1"):
            reliability_bins([confidence], [True])
    with pytest.raises(ValueError):
        reliability_bins([0.5], [True, False])


def test_an_analysis_holds_the_words_that_the_protocol_counts():
    tally = WordTally(36, analysis=WordAnalysis())
    words = [
        ("EXIT", "exit", 0.95),  # right under 36
        ("T0P!", "top", 0.85),  # o read as 0
        ("ab", "abc", 0.15),  # c left out
        ("T0P", "TOP", 0.85),
        ("x", "?!", 0.5),  # an empty label does not count
        ("x", "x" * 26, 0.5),  # nor does one that is too long
        (None, "unread", 0.0),  # nor a broken image
    ]
    for word in words:
        tally.add(*word)
    results = tally.results()
    assert results["words"] == 4
    analysis = json.loads(json.dumps(results["analysis"]))
    assert analysis["accuracy_by_length"] == [
        {"length": 3, "words": 3, "correct": 0},
        {"length": 4, "words": 1, "correct": 1},
    ]
    assert analysis["confusions"] == [
        {"label": "o", "prediction": "0", "count": 2},
        {"label": "c", "prediction": "", "count": 1},
    ]
    assert [row["words"] for row in analysis["reliability"]] == [0, 1, 0, 0, 0, 0, 0, 0, 2, 1]
    assert analysis["expected_calibration_error"] == pytest.approx((0.15 + 2 * 0.85 + 0.05) / 4)
    assert "analysis" not in WordTally(36).results()
