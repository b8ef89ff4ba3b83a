# SPDX-License-Identifier: Apache-2.0
"""Words drawn as they look in photographs, in any font and most scripts, with the position of each letter."""

import io
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from transformers.utils import logging

from ..configuration_clip4str import DEFAULT_CHARSET
from ..reading import find_images


logger = logging.get_logger(__name__)

FONT_SUFFIXES = (".ttf", ".otf", ".ttc", ".woff", ".woff2")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
BENT_STRIPS = 8
LARGEST_BACKGROUND = (320, 320)
# Points along the upper and the lower edge of a box, as shares of its width and height.
EDGES = np.stack([np.tile(np.linspace(0, 1, 9), 2), np.repeat((0.0, 1.0), 9)], 1)
NUMBER_SHAPES = (
    *("${}", "{}%", "{}.99", "#{}", "{}-{}", "{}:00", "+{}", "{}/{}", "({})"),
    *("{}km", "{}th", "{}pm", "{}am", "A{}", "No.{}", "{}{}"),
)


@dataclass
class RenderedWord:
    """
    A word image and what is drawn in it.

    Args:
        image (`PIL.Image.Image`): the crop, RGB.
        text (`str`): its label.
        letter_positions (`list[float]`): the centre of each letter as a fraction of the width, from 0 to 1.
    """

    image: Image.Image
    text: str
    letter_positions: list[float]


@dataclass(frozen=True)
class Font:
    """A font file and the widths, in em, of the characters that it draws in shapes of their own."""

    path: str
    advances: dict[str, float]

    def spell(self, text: str) -> str | None:
        """The text as this font can draw it, in capitals if it has only these, or `None` if it cannot."""
        return next((spelt for spelt in (text, text.upper()) if all(c in self.advances for c in spelt)), None)


class WordRenderer:
    """
    Draws an endless supply of words. Each number stands for one word image: the same number gives the same image in
    any process, in any order.

    Args:
        fonts (`Iterable` of `str` or `os.PathLike`): font files, or folders that are searched for them.
        words (`Sequence[str]`, *optional*): words to draw; without them only random strings are drawn.
        charset (`Sequence[str]`, *optional*): the characters that may occur. Words are put into its case, and words
            with other characters are left out. Letters are placed one by one from left to right, so scripts whose
            letters join, stack or run from right to left (Arabic, Hebrew, Devanagari, Thai, ..) are refused; train
            their readers on other images.
        backgrounds (`str` or `os.PathLike`, *optional*): a folder of pictures without text; without it backgrounds are
            plain, graded or grained.
        plain_fonts (`Iterable` of `str` or `os.PathLike`, *optional*): fonts for easy images, by default `fonts`.
        max_length (`int`, *optional*, defaults to 25): the longest word, in characters.
        random_share (`float`, *optional*, defaults to 0.15): share of strings drawn from the charset at random. A
            reader that sees nothing but words learns to guess words.
        seed (`int`, *optional*, defaults to 0): together with the number of an image, decides everything about it.

    Raises:
        FileNotFoundError: if a file or folder does not exist, or there are no pictures in `backgrounds`.
        ValueError: if there are no fonts, no words of the charset or no pictures that can be read; if the charset has
            nothing to draw or a character that cannot be drawn alone; or if a number is out of range.

    Example:

    ```python
    >>> renderer = WordRenderer(fonts=["/usr/share/fonts"], words=["Exit", "Taxi"])
    >>> renderer.render(7).image.save("word.png")
    ```"""

    def __init__(
        self,
        fonts: Iterable[str | os.PathLike],
        words: Sequence[str] | None = None,
        charset: Sequence[str] = DEFAULT_CHARSET,
        backgrounds: str | os.PathLike | None = None,
        plain_fonts: Iterable[str | os.PathLike] | None = None,
        max_length: int = 25,
        random_share: float = 0.15,
        seed: int = 0,
    ):
        if max_length < 1:
            raise ValueError(f"max_length={max_length} must be at least 1.")
        if not 0 <= random_share <= 1:
            raise ValueError(f"random_share={random_share} must be from 0 to 1.")
        self.fonts = find_fonts(fonts)
        self.plain_fonts = self.fonts if plain_fonts is None else find_fonts(plain_fonts)
        self.charset = "".join(charset)
        shaped = [character for character in self.charset if _needs_shaping(character)]
        if shaped:
            raise ValueError(
                f"charset holds {shaped[:10]}, which join, stack or run from right to left: words are drawn letter by "
                "letter here, and would not look as they are written. Use a text shaper, or photographs."
            )
        if not self.charset.strip():
            raise ValueError(f"charset={self.charset!r} has nothing to draw.")
        self._allowed = set(self.charset)
        self._alphanumeric = [character for character in self.charset if character.isalnum()]
        self.max_length = max_length
        self.words = self._usable(words or ())
        num_words = len(words or ())
        if words is not None and not self.words:
            raise ValueError(
                f"None of {num_words} words is made of the charset {self.charset!r} alone and of at most "
                f"{max_length} characters."
            )
        if len(self.words) < num_words:
            logger.warning(
                "%d of %d words are left out: they hold characters outside the charset, or more than %d characters.",
                num_words - len(self.words),
                num_words,
                max_length,
            )
        self.backgrounds = _find_backgrounds(backgrounds) if backgrounds is not None else []
        self.random_share = random_share
        self.seed = seed
        self._digits = [character for character in self.charset if character.isdigit()]
        self._marks = [c for c in self.charset if not c.isalnum() and not c.isspace()]
        self._warn_of_undrawn()

    def _warn_of_undrawn(self):
        """Warns of the characters that no font has, which a reader would never see."""
        undrawn = set(self.charset)
        for path in self.fonts:
            undrawn -= load_font(path, self.charset).advances.keys()
            if not undrawn:
                return
        logger.warning("None of %d fonts draws %r: no word has them.", len(self.fonts), "".join(sorted(undrawn)))

    def _usable(self, words):
        """The words of the charset, composed, in capitals or small letters where it has only these."""
        composed = (unicodedata.normalize("NFC", _single_spaced(word)) for word in words)
        forms = ((word, word.upper(), word.lower()) for word in composed if word)
        found = (next(filter(self._allowed.issuperset, cases), None) for cases in forms)
        return [word for word in found if word is not None and len(word) <= self.max_length]

    def render(
        self,
        index: int,
        difficulty: float = 1.0,
        max_length: int | None = None,
        random_share: float | None = None,
    ) -> RenderedWord:
        """
        The word image of a number.

        Args:
            index (`int`): the number, 0 or more.
            difficulty (`float`, *optional*, defaults to 1.0): from 0, straight and in grey on a plain, clearly lighter
                or darker grey, to 1, with all that happens to words in photographs.
            max_length (`int`, *optional*): a smaller limit on the length of words than the renderer's.
            random_share (`float`, *optional*): another share of random strings than the renderer's.

        Returns:
            [`RenderedWord`]

        Raises:
            ValueError: if `difficulty` is not from 0 to 1, or no font is found for any text tried.
        """
        if not 0 <= difficulty <= 1:
            raise ValueError(f"difficulty={difficulty} must be from 0 to 1.")
        rng = np.random.default_rng((self.seed, index))
        longest = min(max_length or self.max_length, self.max_length)
        random_share = self.random_share if random_share is None else random_share
        font, text = self._pick(rng, difficulty, longest, random_share)
        height = _text_height(rng, difficulty)
        flat, letters, box = _draw_flat(rng, font, text, height, difficulty, self._neighbour)
        warp = _Warp.sample(rng, box, letters, difficulty)
        layers = {name: warp.apply(mask) for name, mask in flat.items()}
        background = self._background(rng, warp.size, difficulty)
        image = _degrade(rng, _paint(rng, background, layers, difficulty), difficulty)
        return RenderedWord(image, text, warp.letter_positions)

    def _pick(self, rng, difficulty, longest, random_share) -> tuple[Font, str]:
        """A font and a text that it can draw."""
        fonts = self.plain_fonts if rng.random() >= difficulty else self.fonts
        for _ in range(10):
            text = None
            # Another font for the same text, not another text: most fonts have digits, but few have other scripts.
            for _ in range(50):
                font = load_font(fonts[rng.integers(len(fonts))], self.charset)
                text = text or self._text(rng, longest, random_share)
                spelt = self._spell(font, text, longest)
                if spelt is not None:
                    return font, spelt
            every = (load_font(path, self.charset) for path in fonts)
            able = [(font, spelt) for font in every if (spelt := self._spell(font, text, longest)) is not None]
            if able:  # the few that have a rare script
                return able[rng.integers(len(able))]
        raise ValueError(f"None of {len(fonts)} fonts draws any of 10 texts; do the fonts have {self.charset!r}?")

    def _spell(self, font: Font, text: str, longest: int) -> str | None:
        """The text as the font can draw it and the reader can read it, or `None`."""
        spelt = font.spell(text)
        # Capitals may be other characters, and more of them ("ß", "SS").
        fits = spelt is not None and len(spelt) <= longest and self._allowed.issuperset(spelt)
        return spelt if fits else None

    def _text(self, rng, longest, random_share) -> str:
        if rng.random() < random_share or not self.words:
            return self._random_text(rng, longest)
        if rng.random() < 0.1 and self._digits:
            return self._number(rng, longest)
        for _ in range(100):
            word = _change_case(rng, self.words[rng.integers(len(self.words))])
            if self._marks and rng.random() < 0.06:
                mark = self._marks[rng.integers(len(self._marks))]
                word = word + mark if rng.random() < 0.7 else mark + word
            if len(word) <= longest and self._allowed.issuperset(word):
                return word
        return self._random_text(rng, longest)

    def _random_text(self, rng, longest) -> str:
        length = min(rng.geometric(0.2), longest)
        alphabet: Sequence[str] = self.charset
        if rng.random() < 0.7:  # punctuation is a third of ASCII, and rare on signs
            alphabet = self._alphanumeric or alphabet
        text = "".join(alphabet[i] for i in rng.integers(len(alphabet), size=length))
        return _single_spaced(text) or self._random_text(rng, longest)

    def _number(self, rng, longest) -> str:
        length = min(rng.geometric(0.25), longest)
        text = "".join(self._digits[i] for i in rng.integers(len(self._digits), size=length))
        if rng.random() < 0.5:
            return text
        shaped = NUMBER_SHAPES[rng.integers(len(NUMBER_SHAPES))].format(text, text[::-1])
        return shaped if len(shaped) <= longest and self._allowed.issuperset(shaped) else text

    def _neighbour(self, rng) -> str:
        return self._text(rng, 12, self.random_share)

    def _background(self, rng, size: tuple[int, int], difficulty: float) -> np.ndarray:
        """Pixels `(height, width, 3)`, float32 from 0 to 255."""
        if self.backgrounds and rng.random() < 0.6 * difficulty:
            picture = _load_background(self.backgrounds[rng.integers(len(self.backgrounds))])
            if picture is not None:
                return _background_patch(rng, picture, size)
        ground = np.broadcast_to(_colour(rng, difficulty), (size[1], size[0], 3)).astype(np.float32)
        if rng.random() < 0.4 * difficulty:
            ground = ground + (_colour(rng, difficulty) - ground) * rng.uniform(0, 0.6) * _gradient(rng, size)
        if rng.random() < 0.4 * difficulty:
            ground = ground + _grain(rng, size, rng.uniform(2, 25))
        return ground


def _single_spaced(text: str) -> str:
    """Nobody sees a space at an end, or how many there are between two words."""
    return re.sub(r"\s+", " ", text.strip())


def find_fonts(paths: Iterable[str | os.PathLike]) -> list[str]:
    """
    Font files among `paths` and in the folders among them, sorted.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there are no font files, or a single path is given instead of several.
    """
    if isinstance(paths, str | os.PathLike):
        raise ValueError(f"Fonts are a list of files and folders, got {paths!r}: give [{str(paths)!r}].")
    paths, found = [Path(path) for path in paths], []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such font or folder")
        files = path.rglob("*") if path.is_dir() else [path]
        found += [str(file) for file in files if file.suffix.lower() in FONT_SUFFIXES]
    if not found:
        raise ValueError(f"No fonts ({', '.join(FONT_SUFFIXES)}) in {[str(path) for path in paths]}.")
    return sorted(found)


def find_complete_font(paths: Iterable[str | os.PathLike], characters: Iterable[str]) -> str:
    """The font file in `paths` that draws the most of the characters; raises what [`find_fonts`] raises."""
    characters = "".join(characters)
    return max(find_fonts(paths), key=lambda path: len(load_font(path, characters).advances))


@cache
def load_font(path: str, charset: str) -> Font:
    """
    The font with those characters of the charset, and their capitals, that it draws in shapes of their own. Left out
    are empty shapes (but for the space), the box for a missing glyph, small letters in the shapes of capitals, and
    characters of no width.
    """
    size = 20
    try:
        font = _sized_font(path, size)
        missing = _shape(font, "\U0010fffe")
        shapes = {character: _shape(font, character) for character in {*charset, *charset.upper()}}
    except (OSError, ValueError):  # a broken or a bitmap-only font draws nothing
        return Font(path, {})
    drawn = [c for c, shape in shapes.items() if c == " " or (shape[1] and shape != missing)]
    own = [c for c in drawn if c == c.upper() or shapes[c] != shapes.get(c.upper())]
    advances = {character: font.getlength(character) / size for character in own}
    return Font(path, {character: advance for character, advance in advances.items() if advance > 0.05})


def _shape(font, character):
    mask = font.getmask(character)
    return mask.size, bytes(mask)


@lru_cache(maxsize=512)
def _sized_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout is twice as fast, and enough for scripts whose letters stand alone.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _find_backgrounds(folder: str | os.PathLike) -> list[Path]:
    files = [file for file in find_images(folder) if _open_background(file, decode=False) is not None]
    if not files:
        raise ValueError(f"{folder}: no picture in this folder can be read")
    return files


def _open_background(file: Path, decode: bool) -> Image.Image | None:
    """A picture, shrunk if decoded, as photographs are many times larger than words; `None` if it cannot be read."""
    try:
        with Image.open(file) as picture:
            if decode:
                picture.draft("RGB", LARGEST_BACKGROUND)
                picture = picture.convert("RGB")
                picture.thumbnail(LARGEST_BACKGROUND)
            return picture
    except Exception as error:  # decoders raise errors of many types
        logger.warning("%s is left out: %s", file, error)
        return None


# As many photographs as fit into a gigabyte per process; a folder may hold any number.
@lru_cache(maxsize=4096)
def _load_background(file: Path) -> Image.Image | None:
    return _open_background(file, decode=True)


def _background_patch(rng, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    width, height = picture.size
    zoom = rng.uniform(0.35, 1.0)
    wide, high = width * zoom, height * zoom
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    patch = picture.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high))
    return np.asarray(patch, np.float32)


def _needs_shaping(character: str) -> bool:
    is_mark = unicodedata.category(character)[0] == "M" or "\u1100" <= character <= "\u11ff"  # parts of syllables
    return is_mark or unicodedata.bidirectional(character) in ("R", "AL")


def _change_case(rng, word: str) -> str:
    kind = rng.random()
    if kind < 0.35:
        return word.upper()
    return word if kind < 0.6 else word.capitalize() if kind < 0.85 else word.lower()


def _text_height(rng, difficulty: float) -> int:
    """Size of the font in pixels; small words are like crops of distant signs."""
    smallest = 28 - 14 * difficulty
    return round(smallest * (40 / smallest) ** rng.random())


def _draw_flat(rng, face, text, size, difficulty, neighbour):
    """Masks of the straight word, the positions `(n, 2)` of its letters, and the box of its ink, all in pixels."""
    font = _sized_font(face.path, size)
    spacing = rng.uniform(-0.04, 0.25) * size if rng.random() < 0.25 * difficulty else 0.0
    if spacing:
        starts = np.cumsum([0.0, *(face.advances[letter] * size + spacing for letter in text)]).tolist()
    else:  # drawn in one go, with rounded widths and kerning
        starts = [font.getlength(text[:end]) for end in range(len(text) + 1)]
    ascent, descent = font.getmetrics()
    margin = size
    canvas = (math.ceil(starts[-1]) + 2 * margin, ascent + descent + 2 * margin)

    def draw(stroke=0):
        mask = Image.new("L", canvas)
        pen = ImageDraw.Draw(mask)
        if spacing:
            for start, letter in zip(starts, text):
                pen.text((margin + start, margin), letter, 255, font, stroke_width=stroke)
        else:
            pen.text((margin, margin), text, 255, font, stroke_width=stroke)
        return mask

    bold = round(size * rng.uniform(0.02, 0.06)) if rng.random() < 0.1 * difficulty else 0
    flat = {"fill": draw(bold)}
    box = flat["fill"].getbbox() or (margin, margin, canvas[0] - margin, canvas[1] - margin)
    if rng.random() < 0.2 * difficulty:
        flat["outline"] = draw(bold + max(1, round(size * rng.uniform(0.03, 0.12))))
    if rng.random() < 0.2 * difficulty:
        shift = np.rint(rng.uniform(-0.12, 0.12, 2) * size).astype(int)
        flat["shadow"] = ImageChops.offset(flat.get("outline", flat["fill"]), *map(int, shift))
    if rng.random() < 0.3 * difficulty:
        _draw_neighbours(rng, flat["fill"], font, size, margin, starts[-1], neighbour)
    middle = (box[1] + box[3]) / 2
    centres = [margin + (start + end - spacing) / 2 for start, end in pairwise(starts)]
    return flat, np.array([(centre, middle) for centre in centres]), box


def _draw_neighbours(rng, mask, font, size, margin, width, neighbour):
    """Other words beside, above and below, most of which the crop will cut off."""
    pen = ImageDraw.Draw(mask)
    line = sum(font.getmetrics()) * rng.uniform(0.95, 1.3)
    gap = size * rng.uniform(0.25, 0.6)
    places = {
        "left": lambda word: (margin - gap - font.getlength(word), margin),
        "right": lambda word: (margin + width + gap, margin),
        "above": lambda word: (margin + rng.uniform(-0.5, 0.5) * size, margin - line),
        "below": lambda word: (margin + rng.uniform(-0.5, 0.5) * size, margin + line),
    }
    seen = {"left": slice(-4, None), "right": slice(4)}  # more letters would lie outside the canvas
    for name, place in places.items():
        if rng.random() < 0.4:
            word = neighbour(rng)[seen.get(name, slice(None))]
            pen.text(place(word), word, 255, font)


class _Warp:
    """
    Bends the flat word along a parabola, then turns, shears and tilts it, and crops it.

    Images are warped backwards, from the crop to the flat word; letters forwards.
    """

    def __init__(self, matrix: np.ndarray, bend: float, wave: float, box, letters: np.ndarray, margins: np.ndarray):
        corners = np.array(box, float).reshape(2, 2)
        self.centre = corners.mean(0)
        self.half = max((box[2] - box[0]) / 2, 1.0)
        self.bend, self.wave, self.matrix = bend, wave, matrix
        edges = corners[0] + EDGES * (corners[1] - corners[0])
        placed = self._forward(np.concatenate([edges, letters]))
        edges, letters = placed[: len(EDGES)], placed[len(EDGES) :, 0]
        self.origin = edges.min(0) - margins[:2]
        width, height = np.rint(edges.max(0) + margins[2:] - self.origin).astype(int).tolist()
        self.size = min(max(width, 4), 1200), min(max(height, 6), 1200)
        self.letter_positions = ((letters - self.origin[0]) / self.size[0]).clip(0, 1).tolist()

    @classmethod
    def sample(cls, rng, box, letters, difficulty):
        width, height = box[2] - box[0], box[3] - box[1]
        spread = rng.choice((3, 12, 30), p=(0.62, 0.25, 0.13))  # of signs seen from the front, the side, below
        angle = math.radians(rng.normal(0, spread)) * difficulty
        angle = min(max(angle, -1.15), 1.15)
        shear = rng.normal(0, 0.12) * difficulty
        stretch = math.exp(rng.normal(0, 0.18) * difficulty)
        cosine, sine = math.cos(angle), math.sin(angle)
        tilt_x, tilt_y = (rng.normal(0, 0.12, 2) * difficulty / (width / 2 + height)).tolist()
        matrix = np.array(
            [
                [cosine * stretch, cosine * shear - sine, 0],
                [sine * stretch, sine * shear + cosine, 0],
                [tilt_x, tilt_y, 1],
            ]
        )
        bent = rng.random() < 0.25 * difficulty
        bend = rng.normal(0, 0.35) * height * min(1, width / (3 * height)) if bent else 0.0
        wave = rng.normal(0, 0.1) * height if rng.random() < 0.05 * difficulty else 0.0
        loose = rng.uniform(-0.06, 0.22, 4) if rng.random() < 0.7 else rng.uniform(-0.12, 0.5, 4)
        margins = loose * height * (0.4 + 0.6 * difficulty)
        return cls(matrix, bend, wave, box, letters, margins)

    def _lift(self, x):
        """How far the word is moved down at `x`."""
        if not self.bend and not self.wave:
            return 0.0
        along = (x / self.half).clip(-1.5, 1.5)
        return self.bend * along**2 + self.wave * np.sin(3 * along)

    def _forward(self, points):
        points = points - self.centre
        points[:, 1] += self._lift(points[:, 0])
        placed = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        return placed[:, :2] / np.maximum(placed[:, 2:], 0.2)

    def apply(self, mask: Image.Image) -> Image.Image:
        return mask.transform(self.size, Image.Transform.MESH, self._mesh, Image.Resampling.BILINEAR)

    @cached_property
    def _mesh(self):
        """Upright strips of the crop, each with its four corners in the flat word."""
        width, height = self.size
        strips = min(BENT_STRIPS if self.bend or self.wave else 2, width)
        x = [i * width // strips for i in range(strips + 1)]
        targets = np.ones((3, 2, strips + 1))
        targets[0] = x
        targets[1] = [[0], [height]]
        targets[:2] += self.origin[:, None, None]
        placed = np.linalg.inv(self.matrix) @ targets.reshape(3, -1)
        sources = placed[:2] / np.maximum(placed[2], 0.05)
        sources[1] -= self._lift(sources[0])
        upper, lower = (sources + self.centre[:, None]).T.reshape(2, strips + 1, 2).tolist()
        return [
            ((x[i], 0, x[i + 1], height), (*upper[i], *lower[i], *lower[i + 1], *upper[i + 1])) for i in range(strips)
        ]


def _colour(rng, difficulty: float) -> np.ndarray:
    grey = rng.uniform(0, 255)
    if rng.random() < 0.3:
        grey = 255 - abs(rng.normal(0, 25)) if rng.random() < 0.5 else abs(rng.normal(0, 25))
    chroma = rng.normal(0, 70, 3) * difficulty if rng.random() < 0.7 else np.zeros(3)
    return (grey + chroma).clip(0, 255).astype(np.float32)


def _contrasting(rng, background: np.ndarray, difficulty: float) -> np.ndarray:
    """A colour that stands out from the background; the more difficult, the less."""
    wanted = 110 - 80 * difficulty * rng.random() ** 0.7
    level = float(background.reshape(-1, 3)[::16].mean(0) @ LUMA)  # a part of the pixels is enough
    for _ in range(8):
        colour = _colour(rng, difficulty)
        if abs(float(colour @ LUMA) - level) >= wanted:
            return colour
    return np.full(3, 250.0 if level < 128 else 5.0, np.float32)


def _gradient(rng, size) -> np.ndarray:
    """A slope `(height, width, 1)` from 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    x = np.linspace(-0.5, 0.5, size[0], dtype=np.float32)[None, :, None]
    y = np.linspace(-0.5, 0.5, size[1], dtype=np.float32)[:, None, None]
    return np.clip(0.5 + x * math.cos(angle) + y * math.sin(angle), 0, 1)


def _grain(rng, size, strength) -> np.ndarray:
    """Smooth noise `(height, width, 1)`: a few random values, enlarged."""
    coarse = rng.normal(0, strength, (2 + size[1] // 4, 2 + size[0] // 4)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(smooth)[:, :, None]


def _paint(rng, image, layers, difficulty):
    """Lays shadow, outline and filling on the background; float32 `(height, width, 3)`."""
    colour = _contrasting(rng, image, difficulty)
    if "shadow" in layers:
        shadow = layers["shadow"].filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
        tone = image.reshape(-1, 3).mean(0) * rng.uniform(0, 0.6) if rng.random() < 0.8 else _colour(rng, 1)
        image = _blend(image, shadow, tone, rng.uniform(0.4, 1))
    if "outline" in layers:
        image = _blend(image, layers["outline"], _contrasting(rng, colour, difficulty))
    if rng.random() < 0.15 * difficulty:
        size = layers["fill"].size
        colour = colour + (_colour(rng, difficulty) - colour) * rng.uniform(0, 0.4) * _gradient(rng, size)
    opacity = rng.uniform(0.6, 1) if rng.random() < 0.3 * difficulty else 1.0
    image = _blend(image, layers["fill"], colour, opacity)
    if rng.random() < 0.25 * difficulty:  # light falls from one side
        image = image * (1 + rng.uniform(-0.6, 0.4) * _gradient(rng, layers["fill"].size))
    return image


def _blend(image, mask: Image.Image, colour, opacity: float = 1.0):
    share = np.asarray(mask, np.float32)[:, :, None] * (opacity / 255)
    return image + (colour - image) * share


def _degrade(rng, pixels: np.ndarray, difficulty: float) -> Image.Image:
    """What cameras and files do to a picture: contrast, blur, low resolution, noise, JPEG."""
    if rng.random() < 0.3 * difficulty:
        pixels = pixels.mean() + (pixels - pixels.mean()) * rng.uniform(0.45, 1.2) + rng.normal(0, 20)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    width, height = image.size
    if rng.random() < 0.4 * difficulty:
        image = image.filter(ImageFilter.GaussianBlur(height * rng.uniform(0, 0.035)))
    if rng.random() < 0.15 * difficulty:
        image = _blur_by_motion(rng, image)
    if rng.random() < 0.25 * difficulty:
        factor = max(rng.uniform(0.35, 0.9), 9 / height)
        if factor < 1:
            small = image.resize((max(4, round(width * factor)), round(height * factor)), Image.Resampling.BOX)
            image = small if rng.random() < 0.5 else small.resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < 0.4 * difficulty:
        image = _add_noise(rng, image)
    if rng.random() < 0.1 * difficulty:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.35 * difficulty:
        image = _through_jpeg(image, int(rng.integers(15, 85)))
    return image


def _blur_by_motion(rng, image):
    """The mean of the picture and itself moved along a line."""
    angle, length = rng.uniform(0, math.pi), image.height * rng.uniform(0.04, 0.14)
    steps = np.linspace(-0.5, 0.5, 5) * length
    padded = np.pad(np.asarray(image, np.float32), ((8, 8), (8, 8), (0, 0)), mode="edge")
    shifts = np.clip(np.rint(np.outer(steps, (math.sin(angle), math.cos(angle)))), -8, 8).astype(int) + 8
    moved = [padded[y : y + image.height, x : x + image.width] for y, x in shifts.tolist()]
    return Image.fromarray((sum(moved) / len(moved)).astype(np.uint8))


def _add_noise(rng, image):
    pixels = np.asarray(image, np.float32)
    grey = rng.random() < 0.5
    shape = (*pixels.shape[:2], 1 if grey else 3)
    noise = rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(2, 22))
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _through_jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer, formats=["JPEG"]).convert("RGB")


__all__ = ["RenderedWord", "WordRenderer", "find_complete_font", "find_fonts"]
