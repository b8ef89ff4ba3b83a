# SPDX-License-Identifier: Apache-2.0
"""Rendered words: the same number gives the same word, of the charset asked for, with its letters where it says."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image, ImageFont

from clip4str_hf.configuration_clip4str import DEFAULT_CHARSET
from clip4str_hf.data import rendering
from clip4str_hf.data.charset import read_charset
from clip4str_hf.data.curriculum import PLAIN_LENGTH, WordCurriculum
from clip4str_hf.data.rendered_sets import contact_sheet, write_word_folder
from clip4str_hf.data.rendering import Font, WordRenderer, find_complete_font, find_fonts, load_font


DATA = Path(__file__).parent / "data"
FONTS = [DATA / "fonts"]
WORDS = (DATA / "words.txt").read_text().split()
SCRIPT = Path(__file__).parent.parent / "scripts" / "render_words.py"


@pytest.fixture(scope="module")
def renderer():
    return WordRenderer(FONTS, WORDS, seed=3)


def pixels(word):
    return np.asarray(word.image)


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_a_number_gives_the_same_word_in_any_order(renderer, difficulty):
    first = [renderer.render(index, difficulty) for index in range(20)]
    other = WordRenderer(FONTS, WORDS, seed=3)
    for index in reversed(range(20)):
        again = other.render(index, difficulty)
        assert again.text == first[index].text and again.letter_positions == first[index].letter_positions
        assert np.array_equal(pixels(again), pixels(first[index]))


def test_a_number_gives_the_same_word_in_any_interpreter():
    # Interpreters differ in the order of sets of strings.
    code = f"""
from hashlib import sha256
from pathlib import Path
from clip4str_hf.data.rendering import WordRenderer

renderer = WordRenderer([Path({str(FONTS[0])!r})], {WORDS[:100]!r}, seed=3)
words = [renderer.render(index) for index in range(20)]
print(sha256(b"".join(word.text.encode() + word.image.tobytes() for word in words)).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_numbers_and_seeds_give_different_words(renderer):
    images = {pixels(renderer.render(index)).tobytes() for index in range(50)}
    assert len(images) == 50
    assert pixels(WordRenderer(FONTS, WORDS, seed=4).render(0)).tobytes() not in images


def test_words_are_rgb_of_the_size_of_crops_and_show_something(renderer):
    sizes = []
    for index in range(200):
        word = renderer.render(index)
        assert word.image.mode == "RGB"
        sizes.append(word.image.size)
        assert pixels(word).std() > 0
    widths, heights = np.array(sizes).T
    assert heights.min() >= 6 and np.percentile(heights, 90) < 100 and (widths > heights).mean() > 0.6


def test_texts_are_of_the_charset_and_no_longer_than_asked():
    for charset in ("0123456789", "0123456789-ABCDEF"):
        texts = [WordRenderer(FONTS, charset=charset, max_length=6).render(index).text for index in range(60)]
        assert all(1 <= len(text) <= 6 and set(text) <= set(charset) for text in texts)
    assert len(set(texts)) > 40
    lengths = [len(WordRenderer(FONTS, charset="0123456789").render(index).text) for index in range(60)]
    assert min(lengths) == 1  # the digit of a meter


def test_a_text_is_not_made_longer_by_capitals(monkeypatch):
    monkeypatch.setattr(rendering, "load_font", lambda path, charset: Font(path, {"S": 0.5}))
    renderer = WordRenderer(FONTS, ["ßß", "sss"], charset="sßS", max_length=3, random_share=0)
    assert {renderer._pick(np.random.default_rng(seed), 1.0, 3, 0.0)[1] for seed in range(20)} == {"SSS"}


def test_words_are_put_into_the_case_and_the_composition_of_the_charset():
    renderer = WordRenderer(FONTS, ["exit", "cafe\u0301", "naïve"], charset="CAFÉEXIT")
    assert renderer.words == ["EXIT", "CAFÉ"]
    assert {"EXIT", "CAFÉ"} <= {renderer.render(index).text for index in range(60)}
    assert WordRenderer(FONTS, ["Exit"], charset="exit").words == ["exit"]


def test_words_come_in_several_cases_and_among_random_strings(renderer):
    texts = [renderer.render(index).text for index in range(300)]
    known = [text for text in texts if text.lower() in map(str.lower, WORDS)]
    assert 0.5 < len(known) / 300 < 0.9
    assert any(text.isupper() for text in known) and any(text.istitle() for text in known)
    shares = [WordRenderer(FONTS, WORDS, random_share=share).render(5, 0.0, None, 0.0).text for share in (0.0, 1.0)]
    assert shares[0] == shares[1]


def test_letters_lie_where_it_says():
    """Colons do not touch each other: in straight words each is as far from the left as it says."""
    renderer = WordRenderer(FONTS, [":" * length for length in range(1, 13)], charset=":", random_share=0.0)
    for index in range(40):
        word = renderer.render(index, 0.0)
        image = np.asarray(word.image.convert("L"), float)
        inked = (np.abs(image - np.median(image)).max(0) > 40).astype(int)
        starts, ends = (np.flatnonzero(np.diff(inked, prepend=0, append=0) == step) for step in (1, -1))
        middles, positions = (starts + ends) / 2, np.array(word.letter_positions) * image.shape[1]
        assert len(middles) == len(positions) == len(word.text)
        assert np.abs(middles - positions).max() < 0.2 * image.shape[1] / len(word.text) + 1


def test_letters_are_moved_with_the_pixels():
    """A dot in the middle of a letter is where it says after bending, turning, shearing and tilting."""
    box, letters = (40, 40, 240, 80), np.array([(x, 60.0) for x in range(50, 240, 20)])
    rng, distances = np.random.default_rng(0), []
    for _ in range(30):
        warp = rendering._Warp.sample(rng, box, letters, 1.0)
        for (x, y), position in zip(letters.astype(int), warp.letter_positions):
            flat = np.zeros((120, 280), np.uint8)
            flat[y - 2 : y + 2, x - 2 : x + 2] = 255
            dot = np.asarray(warp.apply(Image.fromarray(flat)), float).sum(0)
            if 0.02 < position < 0.98:  # not cut
                middle = np.average(np.arange(len(dot)) + 0.5, weights=dot)
                distances.append(abs(middle - position * len(dot)))
    # Letters are 20 pixels apart, and upright strips follow the strongest tilts only in part.
    assert len(distances) > 250 and np.mean(distances) < 1.5 and np.quantile(distances, 0.95) < 5


def test_difficult_letters_are_inside_and_mostly_in_order(renderer):
    words = [renderer.render(index) for index in range(200)]
    positions = [word.letter_positions for word in words]
    assert all(0 <= position <= 1 for letters in positions for position in letters)
    assert np.mean([letters == sorted(letters) for letters in positions]) > 0.97


@pytest.mark.parametrize("name", ["anton", "bitter"])
def test_letters_lie_where_long_words_draw_them(name):
    """Widths of letters are rounded for each size, which adds up along a word."""
    text, path = "electroencephalograph", str(FONTS[0] / f"{name}-latin-400-normal.woff2")
    font, rng = load_font(path, text), np.random.default_rng(0)
    for size in range(14, 41):
        _, letters, box = rendering._draw_flat(rng, font, text, size, 0.0, None)
        left, _, right, _ = ImageFont.truetype(path, size).getmask(text[-1]).getbbox()
        assert abs(letters[-1, 0] - (box[2] - (right - left) / 2)) < 0.1 * size


def test_difficulty_grows():
    def roughness(difficulty):
        renderer = WordRenderer(FONTS, WORDS)
        images = [np.asarray(renderer.render(index, difficulty).image, float) for index in range(150)]
        return np.mean([np.ptp(image, 2).mean() for image in images])

    assert roughness(0.0) == 0  # grey
    assert roughness(1.0) > 15


def test_a_second_script_is_drawn_in_the_fonts_that_have_it():
    """Of three fonts one has Cyrillic: its words must not give way to what the others can draw."""
    charset = read_charset(f"@{DATA / 'ukrainian.txt'}")
    words = (DATA / "ukrainian_words.txt").read_text("utf-8").split()
    renderer = WordRenderer(FONTS, words, charset, random_share=0.0)
    texts = [renderer.render(index, 0.5).text for index in range(100)]
    known = [text for text in texts if text.lower() in words]
    assert len(known) > 65 and any(text.isupper() for text in known)
    assert find_complete_font(FONTS, "їжак").endswith("bitter-cyrillic-400-normal.woff2")


def test_words_with_spaces_are_drawn_and_none_at_the_ends():
    renderer = WordRenderer(FONTS, ["NO PARKING ANY TIME ", "ONE WAY"], DEFAULT_CHARSET + " ", max_length=40)
    words = [renderer.render(index) for index in range(80)]
    assert any(word.text.upper() == "NO PARKING ANY TIME" for word in words)
    assert all(word.text == word.text.strip() and len(word.letter_positions) == len(word.text) for word in words)
    spaced = WordRenderer(FONTS, charset="a ", random_share=1.0)
    assert all(spaced.render(index).text.strip("a ") == "" for index in range(20))


@pytest.mark.parametrize("charset", ["abاب", "אבג", "कि", "ก\u0e34", "e\u0301", " "])
def test_scripts_that_need_a_shaper_are_refused(charset):
    with pytest.raises(ValueError, match="join, stack or run from right to left|nothing to draw"):
        WordRenderer(FONTS, charset=charset)


def test_backgrounds_are_used(tmp_path):
    Image.new("RGB", (90, 64), (200, 30, 30)).save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")  # named, and left out
    damaged = (tmp_path / "red.png").read_bytes().replace(b"IEND", b"I ND")  # which shows when it is decoded
    (tmp_path / "damaged.png").write_bytes(damaged)
    renderer = WordRenderer(FONTS, WORDS, backgrounds=tmp_path)
    reddish = [np.median(pixels(renderer.render(index)).reshape(-1, 3), 0) for index in range(80)]
    assert np.mean([red > 1.5 * max(green, blue, 1) for red, green, blue in reddish]) > 0.3


def test_a_font_has_only_what_it_draws_in_its_own_shape():
    anton = load_font(find_fonts(FONTS)[0], DEFAULT_CHARSET)
    assert set(DEFAULT_CHARSET) == set(anton.advances)
    assert anton.spell("Exit") == "Exit" and anton.spell("Ж") is None
    assert "Ж" not in load_font(find_fonts(FONTS)[0], "Жa").advances


def test_unusable_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        WordRenderer([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="No fonts"):
        WordRenderer([tmp_path])
    with pytest.raises(ValueError, match="No fonts"):
        WordRenderer([])
    with pytest.raises(ValueError, match="None of 1 words"):
        WordRenderer(FONTS, ["Ж"])
    with pytest.raises(ValueError, match="None of 0 words"):
        WordRenderer(FONTS, [])
    with pytest.raises(ValueError, match="None of 1 words .* of at most 3 characters"):
        WordRenderer(FONTS, ["Exit"], max_length=3)
    with pytest.raises(FileNotFoundError, match="no images"):
        WordRenderer(FONTS, backgrounds=tmp_path)
    with pytest.raises(ValueError, match="random_share=2"):
        WordRenderer(FONTS, random_share=2)
    with pytest.raises(ValueError, match="max_length=0"):
        WordRenderer(FONTS, max_length=0)
    with pytest.raises(ValueError, match="difficulty=1.5"):
        WordRenderer(FONTS).render(0, 1.5)
    for paths in (str(FONTS[0]), Path(FONTS[0])):
        with pytest.raises(ValueError, match="Fonts are a list of files and folders, got"):
            WordRenderer(paths)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match="do the fonts have"):
        WordRenderer([tmp_path / "broken.ttf"]).render(0)


def test_words_that_are_left_out_are_counted_and_spaces_are_single(caplog):
    renderer = WordRenderer(FONTS, ["WAY  OUT ", "ΟΔΟΣ"], charset="ABCDEFGHIJKLMNOPQRSTUVWXYZ ", random_share=0)
    assert renderer.words == ["WAY OUT"]
    assert "1 of 2 words are left out" in caplog.text
    texts = [WordRenderer(FONTS, charset="AB ").render(index).text for index in range(60)]
    assert any(" " in text for text in texts) and not any("  " in text for text in texts)


def test_characters_that_no_font_has_are_named(caplog):
    WordRenderer(FONTS, charset="abЖ")
    assert not caplog.text
    WordRenderer(FONTS, charset="abЖ字月")
    assert f"None of {len(find_fonts(FONTS))} fonts draws '字月'" in caplog.text


def test_a_few_fonts_of_a_thousand_that_have_the_script_are_found(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number}.ttf").write_bytes(b"no font")
    renderer = WordRenderer([*FONTS[:1], tmp_path], ["Exit", "Taxi"], random_share=0)
    drawn = {renderer.render(index, 0.0).text.lower() for index in range(20)}
    assert {"exit", "taxi"} <= drawn


def test_a_broken_font_among_others_is_passed_over(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    renderer = WordRenderer([*FONTS, tmp_path], WORDS)
    assert all(renderer.render(index).text for index in range(20))


def test_curriculum_goes_from_easy_to_difficult_and_real(renderer):
    real = load_dataset("imagefolder", data_dir=str(DATA / "words"), split="train")
    curriculum = WordCurriculum(renderer, 400, real, real_share=0.5, plain_until=0.25, difficult_from=0.5)
    assert [curriculum.difficulty(index) for index in (0, 99, 150, 200, 399)] == [0, 0, 0.5, 1, 1]
    rows = [curriculum[index] for index in range(400)]
    is_real = [row["letter_positions"] is None for row in rows]
    assert not any(is_real[:100]) and 0.35 < np.mean(is_real[200:]) < 0.65
    assert all(len(row["text"]) <= PLAIN_LENGTH for row in rows[:100])
    assert not {row["text"] for row in rows[:100]} & set(WORDS)  # random strings: a language is not to be learnt yet
    assert {row["text"] for row, real in zip(rows, is_real) if real} <= set(real["text"])
    at_once = WordCurriculum(renderer, 400, plain_until=0.25, difficult_from=0.25)
    assert [at_once.difficulty(index) for index in (0, 99, 100, 399)] == [0, 0, 1, 1]
    again = curriculum[250]
    assert again["text"] == rows[250]["text"] and again["image"].tobytes() == rows[250]["image"].tobytes()


def test_curriculum_and_renderer_draw_different_numbers(monkeypatch):
    """Else words that are not real ones would be of plain fonts, and those of some letters easy."""
    fancy, plain = (str(FONTS[0] / f"{name}-latin-400-normal.woff2") for name in ("anton", "bitter"))
    drawn = []
    monkeypatch.setattr(rendering, "load_font", lambda path, charset: drawn.append(path) or load_font(path, charset))
    renderer = WordRenderer([fancy], ["word"], plain_fonts=[plain], random_share=0, seed=3)
    real = load_dataset("imagefolder", data_dir=str(DATA / "words"), split="train")
    curriculum = WordCurriculum(renderer, 300, real, real_share=0.4, plain_until=0, difficult_from=0, seed=3)
    for index in range(300):
        curriculum[index]
    assert len(drawn) > 150 and 0.25 < drawn.count(plain) / len(drawn) < 0.45


def test_curriculum_names_bad_numbers(renderer):
    with pytest.raises(ValueError, match="real_words holds no words"):
        WordCurriculum(renderer, 5, real_words=[])
    for options in ({"num_words": 0}, {"num_words": 5, "real_share": 2}, {"num_words": 5, "plain_until": 0.9}):
        with pytest.raises(ValueError, match=list(options)[-1]):
            WordCurriculum(renderer, **options)
    with pytest.raises(IndexError):
        WordCurriculum(renderer, 3)[3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_folder_of_words_loads_with_datasets(renderer, tmp_path, num_workers):
    curriculum = WordCurriculum(renderer, 30, plain_until=0, difficult_from=0)
    write_word_folder(curriculum, tmp_path / "words", num_workers)
    words = load_dataset("imagefolder", data_dir=str(tmp_path / "words"), split="train", cache_dir=str(tmp_path))
    rows = sorted(zip(words["text"], (image.tobytes() for image in words["image"])))
    assert rows == sorted((row["text"], row["image"].tobytes()) for row in map(curriculum.__getitem__, range(30)))


def test_nothing_half_written_stays(renderer, tmp_path):
    class Breaks(WordCurriculum):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("disk")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="disk"):
        write_word_folder(Breaks(renderer, 5), tmp_path / "words")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "words").mkdir()
    with pytest.raises(ValueError, match="words exists"):
        write_word_folder(WordCurriculum(renderer, 5), tmp_path / "words")


def test_contact_sheet_holds_every_image():
    red, blue = Image.new("RGB", (50, 20), "red"), Image.new("RGB", (20, 50), "blue")
    sheet = contact_sheet([red, blue, red], ["a", "b", "c"], columns=2)
    assert sheet.size == (2 * 128, 2 * 56)
    assert sheet.getpixel((20, 5)) == (255, 0, 0) and sheet.getpixel((132, 20)) == (0, 0, 255)
    with pytest.raises(ValueError, match="labels"):
        contact_sheet([red], [])


def test_script(tmp_path):
    def run(*arguments):
        command = [sys.executable, SCRIPT, "--fonts", *FONTS, "--words", DATA / "words.txt", *arguments]
        return subprocess.run(map(str, command), capture_output=True, text=True, cwd=tmp_path)

    (tmp_path / "marked.txt").write_text("Exit\n", encoding="utf-8-sig")  # as Windows saves it
    done = run("words", "--num-words", 12, "--num-workers", 1, "--words", tmp_path / "marked.txt")
    assert done.returncode == 0 and done.stdout.startswith("12 words in")
    with open(tmp_path / "words" / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and all((tmp_path / "words" / row["file_name"]).is_file() for row in rows)
    assert "exit" in {row["text"].lower() for row in rows}
    (tmp_path / "ansi.txt").write_text("Tür\n", encoding="latin-1")
    assert "ansi.txt is not UTF-8" in run("other", "--words", tmp_path / "ansi.txt").stderr
    assert "--sheet draws 100 words" in run("sheet.png", "--sheet", "--num-words", 5).stderr
    assert run("sheet.png", "--sheet").returncode == 0
    assert Image.open(tmp_path / "sheet.png").size == (1280, 560)
    again = run("words")
    assert again.returncode == 1 and again.stderr.startswith("words exists")
