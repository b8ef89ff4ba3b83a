# SPDX-License-Identifier: Apache-2.0
"""
Measures what reading and training cost compared with the image encoder in the same run: medians over repeats, ratios
first. Sizes are the published ones, weights are random, and no text ends before its last position: the worst case.
"""

import argparse
import json
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CompileConfig,
    MgpstrConfig,
    MgpstrForSceneTextRecognition,
    PPOCRV5MobileRecConfig,
    PPOCRV5MobileRecForTextRecognition,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.utils import logging

from clip4str_hf import Clip4STRConfig, Clip4STRForSceneTextRecognition
from clip4str_hf.command_line import require_at_least
from clip4str_hf.metrics.tables import markdown_table
from clip4str_hf.training.arguments import has_bf16


SIZES = {  # image tower: width, layers, patch; text tower: width, layers; projection
    "b32": (768, 12, 32, 512, 12, 512),
    "b16": (768, 12, 16, 512, 12, 512),
    "l14": (1024, 24, 14, 768, 12, 768),
    "h14": (1280, 32, 14, 1024, 24, 1024),
}
SECTIONS = {
    "reading": "generate beside the image encoder",
    "training": "a step beside the encoder's forward and backward",
    "options": "ways to read",
    "length": "cost against the length of the texts",
    "peers": "readers of transformers, random weights",
    "share": "of the device's rate of matrix products",
}
OPTIONS = {
    "default": {},
    "every row to the last step": {"synced_gpus": True},
    "refine_iters=0": {"refine_iters": 0},
    "refine_iters=2": {"refine_iters": 2},
    "visual_only=True": {"visual_only": True},
    "cross_modal_single_pass=True": {"cross_modal_single_pass": True},
    "autoregressive=False": {"autoregressive": False},
}
MEBIBYTE = 2**20


class Clock:
    """Times calls in turn, so that what disturbs one disturbs the others, and waits for the device to finish each."""

    def __init__(self, device: torch.device, repeats: int):
        self.device, self.repeats = device, repeats

    def seconds(self, *calls: Callable) -> list[float]:
        """Median seconds of each call."""
        return [median(times) for times in zip(*self._rounds(calls))]

    def ratio(self, call: Callable, base: Callable) -> tuple[float, float, float]:
        """Median of the ratios of `call` to `base`, and the median seconds of both."""
        rounds = self._rounds((call, base))
        return median(ours / base for ours, base in rounds), *(median(times) for times in zip(*rounds))

    def _rounds(self, calls):
        for call in calls:
            self._once(call)
        return [[self._once(call) for call in calls] for _ in range(self.repeats)]

    def _once(self, call):
        self._finish()
        start = perf_counter()
        call()
        self._finish()
        return perf_counter() - start

    def _finish(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory(self, call: Callable) -> float:
        """MiB that a call needs beyond what is in use before it."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            call()
            return (torch.cuda.max_memory_allocated(self.device) - before) / MEBIBYTE
        with resident_memory() as samples:
            call()
        return (max(samples) - samples[0]) / MEBIBYTE


@contextmanager
def resident_memory():
    """The process's resident bytes, sampled every few milliseconds."""
    process, done = psutil.Process(), threading.Event()
    samples = [process.memory_info().rss]

    def sample():
        while not done.wait(0.005):
            samples.append(process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        done.set()
        sampler.join()


def make_reader(size: str, device: torch.device, dtype: torch.dtype) -> Clip4STRForSceneTextRecognition:
    """A reader with random weights that never ends a text."""
    width, layers, patch, text_width, text_layers, projection = SIZES[size]
    config = Clip4STRConfig(
        vision_config=tower(width, layers, projection) | {"patch_size": patch},
        text_config=tower(text_width, text_layers, projection),
    )
    torch.manual_seed(0)
    model = Clip4STRForSceneTextRecognition(config).to(device, dtype).eval()
    for decoder in (model.visual_decoder, model.cross_decoder):
        decoder.head.bias.data[config.eos_token_id] = -1e4
    return model


def tower(width: int, layers: int, projection: int) -> dict:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "projection_dim": projection,
    }


def random_images(model, batch_size: int) -> torch.Tensor:
    return torch.randn(batch_size, 3, *model.config.image_size, device=model.device, dtype=model.dtype)


def encode(model, pixel_values):
    with torch.no_grad():
        model.get_image_features(pixel_values)


def read_rows(model, clock: Clock, batch_sizes: list[int]) -> list[dict]:
    """`generate` compared with the image encoder."""
    rows = []
    for size in batch_sizes:
        images = random_images(model, size)
        generate = partial(model.generate, images)
        ratio, reading, _ = clock.ratio(generate, partial(encode, model, images))
        rows.append(
            {
                "batch": size,
                "generate / encoder": ratio,
                "ms an image": 1000 * reading / size,
                "images a second": size / reading,
                "peak MiB": clock.peak_memory(generate),
            }
        )
    return rows


def train_row(model, clock: Clock, batch_size: int) -> dict:
    """A training step without the optimizer, compared with the encoder's forward and backward."""
    images, config = random_images(model, batch_size), model.config
    labels = torch.randint(1, len(config.charset) + 1, (batch_size, config.max_label_length + 2), device=model.device)
    labels[:, 0], labels[:, -1] = config.bos_token_id, config.eos_token_id

    def encoder_step():
        model.get_image_features(images).float().sum().backward()
        model.zero_grad()

    def step():
        model(images, labels=labels).loss.backward()
        model.zero_grad()

    model.train()
    ratio, seconds, encoding = clock.ratio(step, encoder_step)
    row = {"batch": batch_size, "step / encoder": ratio, "s a step": seconds, "s encoder": encoding}
    row["peak MiB"] = clock.peak_memory(step)
    model.eval()
    return row


def option_rows(model, clock: Clock, batch_size: int, compiled: bool) -> list[dict]:
    """What each way to read costs compared with the default one."""
    images = random_images(model, batch_size)
    calls = {name: partial(model.generate, images, **options) for name, options in OPTIONS.items()}
    for dtype in (torch.bfloat16, torch.float16):
        if model.device.type != "cpu" or (dtype == torch.bfloat16 and has_bf16(use_cpu=True)):
            calls[str(dtype).removeprefix("torch.")] = partial(in_precision(model, dtype).generate, images.to(dtype))
    if model.device.type == "cpu" and model.dtype == torch.float32:
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        calls["int8, dynamic quantisation"] = partial(quantized.generate, images)
    first_call = {}
    if compiled:
        calls["compile_config"] = partial(model.generate, images, compile_config=CompileConfig())
        start = perf_counter()
        calls["compile_config"]()
        first_call = {"compile_config": perf_counter() - start}
    seconds = dict(zip(calls, clock.seconds(*calls.values())))
    return [
        {
            "option": name,
            "time / default": time / seconds["default"],
            "ms an image": 1000 * time / batch_size,
            "first call, s": first_call.get(name),
        }
        for name, time in seconds.items()
    ]


def in_precision(model, dtype: torch.dtype):
    copy = Clip4STRForSceneTextRecognition(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.to(model.device, dtype).eval()


def length_rows(model, clock: Clock, batch_size: int) -> list[dict]:
    """Reading texts of various lengths; with these weights every text has the greatest length allowed."""
    images = random_images(model, batch_size)
    lengths = [*range(5, model.config.max_label_length, 5), model.config.max_label_length]
    calls = [partial(encode, model, images)]
    calls += [partial(model.generate, images, max_new_tokens=length + 1) for length in lengths]
    encoding, *times = clock.seconds(*calls)
    return [
        {"characters": length, "generate / encoder": time / encoding, "ms an image": 1000 * time / batch_size}
        for length, time in zip(lengths, times)
    ]


def trocr() -> VisionEncoderDecoderModel:
    encoder = ViTConfig(image_size=384, qkv_bias=False)
    decoder = TrOCRConfig(cross_attention_hidden_size=768, is_decoder=True, add_cross_attention=True)
    return VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


def pp_ocr() -> PPOCRV5MobileRecForTextRecognition:
    config = PPOCRV5MobileRecConfig()
    # The recogniser keeps more of the width; the defaults of its backbone are the detector's.
    backbone = config.backbone_config.to_dict() | {"scale": 0.95}
    strides: list[list] = [[1], [1, 1], [(2, 1), 1], [(1, 2), 1, 1, 1, 1], [(2, 1), 1, (2, 1), 1]]
    backbone["block_configs"] = [
        [[kernel, narrow, wide, stride, excites] for (kernel, narrow, wide, _, excites), stride in zip(*stage)]
        for stage in zip(backbone["block_configs"], strides)
    ]
    return PPOCRV5MobileRecForTextRecognition(PPOCRV5MobileRecConfig(backbone_config=backbone))


def peer_rows(reader, clock: Clock, batch_size: int, length: int) -> list[dict]:
    """The readers of transformers at their published sizes and inputs, random weights, texts of equal length."""
    device, dtype = reader.device, reader.dtype
    peers = {
        "TrOCR-base": (trocr(), (384, 384)),
        "MGP-STR-base": (MgpstrForSceneTextRecognition(MgpstrConfig()), (32, 128)),
        "PP-OCRv5 mobile": (pp_ocr(), (48, 320)),
    }
    images = random_images(reader, batch_size)
    calls = {"CLIP4STR": partial(reader.generate, images, max_new_tokens=length + 1)}
    parameters = {"CLIP4STR": reader.num_parameters()}
    for name, (peer, size) in peers.items():
        peer = peer.to(device, dtype).eval()
        pixels = torch.randn(batch_size, 3, *size, device=device, dtype=dtype)
        calls[name] = partial(read_with_peer, peer, pixels, length)
        parameters[name] = peer.num_parameters()
    seconds = dict(zip(calls, clock.seconds(*calls.values())))
    return [
        {
            "reader": name,
            "time / CLIP4STR": time / seconds["CLIP4STR"],
            "ms an image": 1000 * time / batch_size,
            "M parameters": parameters[name] / 1e6,
        }
        for name, time in seconds.items()
    ]


@torch.no_grad()
def read_with_peer(peer, pixels, length: int):
    if not isinstance(peer, VisionEncoderDecoderModel):
        return peer(pixels)
    # Its tokens are word pieces, of about three characters each, and its own end.
    steps = length // 3 + 1
    return peer.generate(pixels, min_new_tokens=steps, max_new_tokens=steps, num_beams=1)


def matrix_share(model, clock: Clock, batch_size: int) -> dict:
    """The share of the device's measured rate of matrix products that the encoder and the whole reading reach."""
    images = random_images(model, batch_size)
    side = 8192 if model.device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=model.device, dtype=model.dtype)
    calls = {"encoder": partial(encode, model, images), "generate": partial(model.generate, images)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)  # the counter hooks onto gradients where there might be any
    flops = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        flops[name] = counter.get_total_flops()
    for parameter in trained:
        parameter.requires_grad_(True)
    product, *times = clock.seconds(lambda: matrix @ matrix, *calls.values())
    rate = 2 * side**3 / product
    row = {"batch": batch_size, "matrix TFLOP/s": rate / 1e12}
    return row | {f"{name}, share": flops[name] / time / rate for name, time in zip(calls, times)}


def to_markdown(title: str, rows: list[dict]) -> str:
    head = list(rows[0])
    table = markdown_table([head, *([cell(row[name]) for name in head] for row in rows)], text_columns=0)
    return f"**{title}**\n\n{table}\n"


def cell(value) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def measure(arguments: argparse.Namespace, show: Callable[[str, list[dict]], None]):
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    clock = Clock(device, arguments.repeats)
    largest = max(arguments.batch_sizes)
    model = make_reader(arguments.size, device, dtype)
    sections = {
        "reading": lambda: read_rows(model, clock, arguments.batch_sizes),
        "training": lambda: [train_row(model, clock, arguments.train_batch_size)],
        "options": lambda: option_rows(model, clock, largest, arguments.compile),
        "length": lambda: length_rows(model, clock, largest),
        "peers": lambda: peer_rows(model, clock, largest, arguments.text_length),
        "share": lambda: [matrix_share(model, clock, largest)],
    }
    for name in arguments.sections:
        show(name, sections[name]())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="b16", help="published size of the reader")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16], help="images read at once")
    parser.add_argument("--train-batch-size", type=int, default=8, help="images of a training step")
    parser.add_argument("--text-length", type=int, default=9, help="characters that the peers' texts have")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where it runs")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="precision")
    parser.add_argument("--compile", action="store_true", help="measure compile_config too, which takes minutes")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, unrounded")
    arguments = parser.parse_args()
    require_at_least(parser, arguments, train_batch_size=1, text_length=1, repeats=1, threads=1)
    if min(arguments.batch_sizes) < 1:
        parser.error(f"--batch-sizes {min(arguments.batch_sizes)} must be at least 1")
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no such folder")
    return arguments


def main():
    arguments = parse_arguments()
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.size}, {arguments.dtype}, {arguments.device}, {arguments.threads} threads, "
        f"median of {arguments.repeats}, torch {torch.__version__}\n"
    )
    figures = {}

    def show(name: str, rows: list[dict]):
        figures[name] = rows
        print(to_markdown(f"{name}: {SECTIONS[name]}", rows), flush=True)

    measure(arguments, show)
    if arguments.json:
        options = {name: value for name, value in vars(arguments).items() if name != "json"}
        arguments.json.write_text(json.dumps(options | {"figures": figures}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
