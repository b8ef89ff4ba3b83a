# SPDX-License-Identifier: Apache-2.0
"""CITATION.cff and CHANGELOG.md are about the version that is here."""

import re
from pathlib import Path

import yaml


ROOT = Path(__file__).parents[1]
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format asks for
    assert (citation["version"], citation["license"]) == (VERSION, "Apache-2.0")
    paper = citation["preferred-citation"]
    assert paper["doi"] == "10.1109/TIP.2024.3512354"
    # As the model cards cite it.
    card = (ROOT / "model_cards" / "fine-tuned.md").read_text(encoding="utf-8")
    assert paper["title"] in card and f"pages={{{paper['start']}--{paper['end']}}}" in card
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert " and ".join(names) in card


def test_the_changelog_begins_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)[1] == VERSION
