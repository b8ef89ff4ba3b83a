# SPDX-License-Identifier: Apache-2.0
"""Learning rates and weight decays of the paper."""

from torch import nn

from ..modeling_clip4str import Clip4STRForSceneTextRecognition


def optimizer_groups(
    model: Clip4STRForSceneTextRecognition,
    learning_rate: float = 8.4e-5,
    weight_decay: float = 0.2,
    decoder_rate_factor: float = 19.0,
) -> list[dict]:
    """
    Parameter groups of the paper (arXiv 2305.14014, 4.1): decoders learn 19 times as fast as CLIP's towers; norms,
    biases, other 1-d parameters, position queries and character embeddings do not decay. Frozen ones are left out.

    Args:
        model ([`Clip4STRForSceneTextRecognition`]): the reader to train.
        learning_rate (`float`, defaults to 8.4e-5): rate of the towers; the paper scales it by effective batch / 512.
        weight_decay (`float`, defaults to 0.2): weight decay of the parameters that decay.
        decoder_rate_factor (`float`, defaults to 19): rate of the decoders as a multiple of the towers'.

    Returns:
        `list[dict]`: groups for a torch optimizer; `Trainer` takes the optimizer as `optimizers=(optimizer, None)`.

    Example:

    ```python
    >>> optimizer = torch.optim.AdamW(optimizer_groups(model), betas=(0.9, 0.98), eps=1e-6)
    >>> trainer = Trainer(model=model, args=args, train_dataset=words, optimizers=(optimizer, None))
    ```"""
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # Anywhere in the name: wrappers (DDP, compilation, adapters) put prefixes before it.
        in_decoder = not {"visual_decoder", "cross_decoder"}.isdisjoint(name.split("."))
        undecayed = parameter.ndim < 2 or (in_decoder and name in embeddings) or name.endswith("position_queries")
        groups.setdefault((in_decoder, not undecayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * (decoder_rate_factor if in_decoder else 1.0),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (in_decoder, decays), parameters in groups.items()
    ]


__all__ = ["optimizer_groups"]
