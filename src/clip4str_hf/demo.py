# SPDX-License-Identifier: Apache-2.0
"""A web page that reads the user's images and shows how; needs the `demo` extra (Gradio)."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from PIL import Image, ImageDraw

from .inspection import Step, crop_box, describe_changes, read_in_steps
from .modeling_clip4str import Clip4STRForSceneTextRecognition
from .processing_clip4str import Clip4STRProcessor
from .visualization import GLOW, overlay_attentions


INTRODUCTION = """\
# CLIP4STR
Drop or paste an image of a word, or a whole photo: there, click two opposite corners of a box around a word."""
# Names of ranges of confidence, with the lowest confidence and the colour of each.
CONFIDENCES = {"90 % and more": (0.9, "#43a047"), "50 to 90 %": (0.5, "#f9a825"), "below 50 %": (0.0, "#e53935")}
MAX_REFINEMENTS = 3
PICTURE_SIDE = 480
# System fonts: a web font would have to be fetched.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["system-ui", "sans-serif"]}
STEP_COLUMNS = {"pass": "20%", "visual branch": "30%", "cross-modal branch": "30%", "edits": "20%"}  # and widths
STYLE = """
#text textarea {font-size: 1.75rem; font-weight: 600}
#places .grid-wrap {max-height: none; min-height: 0; overflow: visible; padding-top: 2.5rem}
#places .grid-container {grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr))}
#places .thumbnail-item {aspect-ratio: 5 / 3}
#steps table * {font-size: .8rem}
"""
# Gradio pastes only through a button of its own; this passes an image pasted anywhere to the field that takes files.
PASTE = """
() => window.addEventListener("paste", (event) => {
  const image = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  const input = document.querySelector("#image input[type=file]");
  if (!image || !input) return;
  const files = new DataTransfer();
  files.items.add(image);
  input.files = files.files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
})
"""


class Demo:
    """
    The event handlers of the page.

    Args:
        model ([`Clip4STRForSceneTextRecognition`]): the reader, with `attn_implementation="eager"`.
        processor ([`Clip4STRProcessor`]): its processor.
    """

    def __init__(self, model: Clip4STRForSceneTextRecognition, processor: Clip4STRProcessor):
        self.model = model
        self.processor = processor

    def open(self, path: str | None, refine_iters: int) -> tuple:
        """Opens a new image; returns `(photo, corners, picture of it, *results)`."""
        if path is None:
            return None, [], None, *nothing("")
        try:
            photo = self.processor.image_processor.fetch_rgb(path)
        except ValueError as error:
            # The cause says what is wrong; the temporary folder of the file is of no interest.
            reason = str(error.__cause__ or error).replace(path, Path(path).name)
            return None, [], None, *nothing(f"This file cannot be read: {reason}")
        return photo, [], photo, *self.read(photo, [], refine_iters)

    def click(self, photo: Image.Image | None, corners: list, refine_iters: int, event: gr.SelectData) -> tuple:
        """Takes a corner of a box; returns `(corners, picture, *results)`."""
        if photo is None:
            return [], None, *nothing("")
        corners = [*corners, tuple(event.index)] if len(corners) == 1 else [tuple(event.index)]
        if len(corners) == 1:
            return corners, mark(photo, corners), *nothing("Now click the opposite corner.")
        try:
            crop_box(*corners, photo.size)
        except ValueError as error:
            return [], photo, *nothing(str(error))
        return corners, mark(photo, corners), *self.read(photo, corners, refine_iters)

    def reset(self, photo: Image.Image | None, refine_iters: int) -> tuple:
        """Removes the box; returns `(corners, picture, *results)`."""
        return [], photo, *self.read(photo, [], refine_iters)

    def read(self, photo: Image.Image | None, corners: list, refine_iters: int) -> tuple:
        """The results for the box between two corners, or for the whole image."""
        if photo is None:
            return nothing("There is no image to read yet.")
        image, where = photo, "the whole image"
        if len(corners) == 2:
            image = photo.crop(crop_box(*corners, photo.size))
            where = f"the box of {image.width} x {image.height} pixels"
        steps, maps = read_in_steps(image, self.model, self.processor, refine_iters)
        word = steps[-1].cross_modal
        scored = list(zip(word["text"], word["char_scores"]))
        pictures = overlay_attentions(scale(image, PICTURE_SIDE), maps)
        return (
            f"Read {where}, confidence {percent(word['score'])}." if scored else f"Found no text in {where}.",
            word["text"],
            [(character, confidence_name(score)) for character, score in scored],
            [(picture, f"{character}  {percent(score)}") for picture, (character, score) in zip(pictures, scored)],
            step_rows(steps),
        )


def nothing(status: str) -> tuple:
    """Empty results, with a status that says why."""
    return status, "", [], [], []


def percent(score: float) -> str:
    return f"{100 * score:.1f} %"


def confidence_name(score: float) -> str:
    return next(name for name, (least, _) in CONFIDENCES.items() if score >= least)


def step_rows(steps: Sequence[Step]) -> list[list[str]]:
    """A row of `STEP_COLUMNS` for each step."""
    rows = []
    for index, step in enumerate(steps):
        texts = [f"{word['text']} ({percent(word['score'])})" for word in (step.visual, step.cross_modal)]
        changes = describe_changes(step.visual["text"], step.cross_modal["text"])
        rows.append([f"refine {index}" if index else "predict", *texts, ", ".join(changes) or "none"])
    return rows


def scale(image: Image.Image, longer_side: int) -> Image.Image:
    """The image with its longer side resized to `longer_side`, so that it is quick to send and looks smooth."""
    factor = longer_side / max(image.size)
    return image.resize([max(1, round(side * factor)) for side in image.size])


def mark(photo: Image.Image, corners: Sequence[tuple[int, int]]) -> Image.Image:
    """The photo with a cross at one corner, or a box between two."""
    marked = photo.copy()
    draw, width = ImageDraw.Draw(marked), max(2, min(photo.size) // 150)
    if len(corners) == 2:
        left, top, right, bottom = crop_box(*corners, photo.size)
        draw.rectangle((left - width, top - width, right - 1 + width, bottom - 1 + width), outline=GLOW, width=width)
    else:
        ((x, y),) = corners
        draw.line((x - 6 * width, y, x + 6 * width, y), GLOW, width)
        draw.line((x, y - 6 * width, x, y + 6 * width), GLOW, width)
    return marked


def build_page(
    model: Clip4STRForSceneTextRecognition, processor: Clip4STRProcessor, examples: Sequence[str] = ()
) -> gr.Blocks:
    """
    Builds the page; [`launch`] serves it.

    Args:
        model ([`Clip4STRForSceneTextRecognition`]): the reader, with `attn_implementation="eager"`.
        processor ([`Clip4STRProcessor`]): its processor.
        examples (`Sequence[str]`, *optional*): paths of images that the page offers as examples.
    """
    demo = Demo(model, processor)
    refine_iters = model.generation_config.refine_iters
    with gr.Blocks(title="CLIP4STR", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        photo, corners = gr.State(None), gr.State([])
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(min_width=300):
                # JPEG, so that even a large photo is shown at once; what is read is the photo itself.
                sources = ["upload"]
                shown = gr.Image(label="Image", sources=sources, format="jpeg", height=300, elem_id="image")
                # Passes on the file, whatever is in it: the processor reports what cannot be read.
                shown.preprocess = lambda upload: upload and upload.path
                text = gr.Textbox(label="Text", buttons=["copy"], interactive=False, elem_id="text")
                status = gr.Markdown(elem_id="status")
                whole = gr.Button("Read the whole image", elem_id="whole")
                refinements = gr.Slider(
                    0, max(MAX_REFINEMENTS, refine_iters), refine_iters, step=1, label="Refinements", elem_id="refine"
                )
                offered = gr.Examples(list(examples), shown, examples_per_page=12) if examples else None
            with gr.Column(min_width=300):
                results = [status, text, *_build_results()]
        chosen, opened = [photo, corners, refinements], [photo, corners, shown, *results]
        private = {"api_visibility": "private", "show_progress": "minimal"}
        gr.on([shown.upload, shown.clear], demo.open, [shown, refinements], opened, **private)
        if offered:
            offered.load_input_event.then(demo.open, [shown, refinements], opened, **private)
        shown.select(demo.click, chosen, [corners, shown, *results], **private)
        whole.click(demo.reset, [photo, refinements], [corners, shown, *results], **private)
        refinements.release(demo.read, chosen, results, **private)
    return page


def _build_results() -> list:
    """The components that show those results of `Demo.read` that come after the text."""
    characters = gr.HighlightedText(
        label="Confidence of each character",
        color_map={name: colour for name, (_, colour) in CONFIDENCES.items()},
        show_legend=True,
        show_inline_category=False,
        elem_id="characters",
    )
    places = gr.Gallery(label="Where each character was read", columns=3, object_fit="contain", elem_id="places")
    steps = gr.Dataframe(
        label="Pass by pass",
        headers=list(STEP_COLUMNS),
        column_widths=list(STEP_COLUMNS.values()),
        interactive=False,
        wrap=True,
        elem_id="steps",
    )
    return [characters, places, steps]


def launch(page: gr.Blocks, **options):
    """
    Serves the page of [`build_page`], which fetches nothing from elsewhere, and reports and records nothing.

    Args:
        page (`gr.Blocks`): the page.
        options: arguments of `gr.Blocks.launch`: `server_name=`, `server_port=`, `share=`, `prevent_thread_lock=`, ...
    """
    return page.launch(
        theme=gr.themes.Default(**FONTS),
        css=STYLE,
        js=PASTE,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size="50mb",
        show_error=True,
        **options,
    )


__all__ = ["build_page", "launch"]
