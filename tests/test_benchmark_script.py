# SPDX-License-Identifier: Apache-2.0
"""`scripts/benchmark.py` measures what it says: full texts, ratios of one run, every section."""

import json
import sys
from pathlib import Path

import pytest
import torch


sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import benchmark


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script on a reader that is small, and gives what it prints and writes."""
    monkeypatch.setitem(benchmark.SIZES, "b32", (64, 1, 32, 64, 6, 64))

    def run(*arguments):
        figures = tmp_path / "figures.json"
        command = ["benchmark.py", "--size", "b32", "--device", "cpu", "--repeats", "1", "--json", str(figures)]
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        benchmark.main()
        return capsys.readouterr().out, json.loads(figures.read_text())

    yield run
    torch.set_num_threads(1)


def test_every_section_but_the_peers_is_measured_and_printed(run):
    sections = [name for name in benchmark.SECTIONS if name != "peers"]
    printed, written = run("--batch-sizes", "2", "1", "--train-batch-size", "2", "--sections", *sections)
    figures = written["figures"]
    assert list(figures) == sections and all(f"**{name}: " in printed for name in sections)
    assert [row["batch"] for row in figures["reading"]] == [2, 1]
    options = {row["option"]: row["time / default"] for row in figures["options"]}
    assert options["default"] == 1 and {*benchmark.OPTIONS, "int8, dynamic quantisation"} <= options.keys()
    assert [row["characters"] for row in figures["length"]] == [5, 10, 15, 20, 25]
    times = [value for rows in figures.values() for row in rows for value in row.values() if isinstance(value, float)]
    assert len(times) > 40 and all(time > 0 for time in times)
    cells = printed.split("**training: ")[1].splitlines()[4].split("|")
    assert len(cells) == 2 + len(figures["training"][0])


def test_no_text_of_its_readers_ends_before_the_last_position(run):
    model = benchmark.make_reader("b32", torch.device("cpu"), torch.float32)
    sequences = model.generate(benchmark.random_images(model, 3))
    assert sequences.shape == (3, 27) and (sequences[:, 1:] > 0).all() and (sequences[:, 1:] <= 94).all()


def test_memory_is_what_a_call_needs():
    clock = benchmark.Clock(torch.device("cpu"), 1)

    def allocate():
        torch.ones(64, 2**20).sum()  # 256 MiB, touched

    assert clock.peak_memory(allocate) == pytest.approx(256, rel=0.3)


def test_the_peer_keeps_half_of_the_width():
    peer = benchmark.pp_ocr().eval()
    with torch.no_grad():
        assert peer(torch.randn(1, 3, 48, 320)).last_hidden_state.shape[1] == 40
    assert 7e6 < peer.num_parameters() < 8e6


def test_wrong_numbers_are_refused(run):
    for option in ("--repeats", "--batch-sizes", "--threads"):
        with pytest.raises(SystemExit):
            run(option, "0")
    with pytest.raises(SystemExit):
        run("--json", "nowhere/figures.json")
