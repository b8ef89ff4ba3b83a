# SPDX-License-Identifier: Apache-2.0
"""The model card of a reader: metadata by which it is found, and a text for its author to complete."""

import os
import re
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData


TAGS = ["scene-text-recognition", "ocr", "clip4str"]
# Tells the Hub how to list and load a reader.
METADATA = {"library_name": "transformers", "pipeline_tag": "image-to-text"}
# The Hub's own placeholder for what a card does not say yet.
MISSING = "[More Information Needed]"
# Placeholder in a card for the Hub id, until it is known.
NO_REPO = "OWNER/NAME"

READER_CARD = """---
{{ card_data }}
---

# {{ name }}

Reads the word in an image
{%- if config.cross_modal_loss_weight %}, as [CLIP4STR](https://arxiv.org/abs/2305.14014) does: a visual branch \
predicts a text, and
a cross-modal branch reads the image and that prediction together.
{%- else %} with the visual branch of [CLIP4STR](https://arxiv.org/abs/2305.14014) alone.
{%- endif %}
{%- if base_model %} Made from [{{ base_model }}](https://huggingface.co/{{ base_model }}).{% endif %}

```python
from transformers import pipeline

reader = pipeline("image-to-text", model="{{ repo_id }}", trust_remote_code=True)
reader("word.png")  # [{'generated_text': ..., 'score': ...}]
```

The code of the model is in this repository: Transformers, PyTorch and Pillow are all that is needed.

## Model

| | |
|---|---|
| parameters | {{ "{:,}".format(parameters) }} |
| images | {{ config.image_size | join(" x ") }} pixels (height x width), patches of {{ vision.patch_size }} |
| image tower | {{ vision.num_hidden_layers }} layers of width {{ vision.hidden_size }} |
{%- if config.cross_modal_loss_weight %}
| text tower | {{ text.num_hidden_layers }} layers of width {{ text.hidden_size }}, \
captions of up to {{ config.caption_context_length }} tokens |
{%- endif %}
| {{ "decoders | one for each branch," if config.cross_modal_loss_weight else "decoder | one," }} \
of depth {{ config.decoder_layers }} and width {{ config.hidden_size }} |
| texts | up to {{ config.max_label_length }} of the {{ config.charset | length }} characters below |

```text
{{ config.charset[:200] }}{{ ".." if config.charset | length > 200 }}
```

## Results

<!-- results -->
{{ results }}
<!-- end of results -->

## Intended use and limits

Single words that are cut out already: it finds no text in a scene and reads no lines. Characters that are not in the
list above are read as others, and longer texts are cut. Each text comes with a confidence; have a person look at
uncertain ones, and do not use it where a misread word does harm.

## Training data

{{ training_data }}

## Training procedure

{{ training_procedure }}

## Licence

{{ licence }}

## Citation

```bibtex
@article{zhao2024clip4str,
  title={CLIP4STR: A Simple Baseline for Scene Text Recognition with Pre-Trained Vision-Language Model},
  author={Zhao, Shuai and Quan, Ruijie and Zhu, Linchao and Yang, Yi},
  journal={IEEE Transactions on Image Processing},
  volume={33},
  pages={6893--6904},
  year={2024},
  doi={10.1109/TIP.2024.3512354}
}
```

"""


def reader_card(model, name: str, repo_id: str = NO_REPO, base_model: str | None = None, **sections: str) -> ModelCard:
    """
    The card of a reader, with `MISSING` where only its author knows what to say.

    Args:
        model ([`Clip4STRForSceneTextRecognition`]): the reader.
        name (`str`): its name.
        repo_id (`str`, *optional*): the Hub id that it has or will have.
        base_model (`str`, *optional*):
            The Hub id of the model it was made from; by default that of the model it was loaded from, if any.
        sections: text of `results`, `training_data`, `training_procedure` and `licence`.
    """
    base_model = base_model or _hub_name(model, repo_id)
    data = ModelCardData(base_model=base_model)
    add_metadata(data)
    return ModelCard.from_template(
        data,
        template_str=READER_CARD,
        name=name,
        repo_id=repo_id,
        base_model=base_model,
        parameters=model.num_parameters(),
        config=model.config,
        vision=model.config.vision_config,
        text=model.config.text_config,
        **dict.fromkeys(("results", "training_data", "training_procedure", "licence"), MISSING) | sections,
    )


def add_metadata(data: ModelCardData):
    """Adds the metadata that tells the Hub how a reader is used; existing values are kept."""
    for field, value in METADATA.items():
        data[field] = data.get(field) or value
    tags = data.tags or []
    data.tags = tags + [tag for tag in TAGS if tag not in tags]


def complete_card(folder: str | os.PathLike, model, repo_id: str, token: bool | str | None = None):
    """
    Turns the `README.md` that transformers has written for a push into the card of a reader: if the repository has no
    card, the empty template is replaced by [`reader_card`]; otherwise missing metadata is added and the text is kept.
    """
    path = Path(folder, "README.md")
    written = ModelCard.load(path)
    if has_card(repo_id, token):
        card = written
    else:
        card = reader_card(model, repo_id.rpartition("/")[2], repo_id)
        card.data.tags = written.data.tags
    add_metadata(card.data)
    card.save(path)


def is_hub_id(name: str | os.PathLike) -> bool:
    """Whether a name can be that of a repository on the Hub and is not that of an existing file or folder."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", os.fspath(name)) is not None and not os.path.exists(name)


def has_card(repo_id: str, token: bool | str | None = None) -> bool:
    """Whether a repository on the Hub has a card."""
    return HfApi().file_exists(repo_id, "README.md", token=token)


def _hub_name(model, repo_id: str) -> str | None:
    """The Hub id that a model was loaded from; `None` if there is none or it is `repo_id`."""
    name = model.config.name_or_path
    return name if is_hub_id(name) and name != repo_id else None


__all__ = [
    "METADATA",
    "MISSING",
    "NO_REPO",
    "TAGS",
    "add_metadata",
    "complete_card",
    "has_card",
    "is_hub_id",
    "reader_card",
]
