# SPDX-License-Identifier: Apache-2.0
"""Predict and refine: what the options of `generate` do."""

import copy
import pickle
import string

import pytest
import torch
from conftest import read_texts, tiny_model
from torch import nn
from transformers import CompileConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList, WatermarkingConfig

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRGenerateOutput, generation_clip4str
from clip4str_hf.generation_clip4str import UNSUPPORTED_OPTIONS, _EndWatch


POSITIONS = 26


@pytest.fixture
def reader(parity_small):
    """The reader with the weights of the reference; what a test changes of it is put back."""
    model = parity_small.model
    before = copy.deepcopy(model.generation_config)
    yield model
    model.generation_config = before
    model.set_attn_implementation("sdpa")


@pytest.fixture
def words(parity_small):
    return parity_small.pixel_values


@pytest.fixture
def many_words(words):
    """32 images, from clean to hardly readable."""
    noise = torch.randn(32, *words.shape[1:], generator=torch.Generator().manual_seed(0))
    return words.repeat(4, 1, 1, 1)[:32] + noise * torch.linspace(0, 1.5, 32)[:, None, None, None]


def read(model, pixel_values, **options):
    return model.generate(pixel_values, return_dict_in_generate=True, **options)


def texts(model, pixel_values, **options):
    return read_texts(model, model.generate(pixel_values, **options))


MODES = [
    {},
    {"refine_iters": 0},
    {"refine_iters": 3},
    {"autoregressive": False},
    {"autoregressive": False, "refine_iters": 0},
    {"visual_only": True},
    {"visual_only": True, "refine_iters": 0},
    {"cross_modal_single_pass": True, "refine_iters": 0},
    {"cross_modal_single_pass": True},
    {"max_length": 6},
]
SOME_MODES = [{}, {"refine_iters": 0}, {"autoregressive": False}, {"visual_only": True}]


@pytest.mark.parametrize("options", MODES, ids=str)
def test_a_text_does_not_depend_on_its_batch(reader, many_words, options):
    whole = read(reader, many_words, **options)
    expected = read_texts(reader, whole.sequences)
    assert len(set(expected)) > 10
    alone = [read(reader, word[None], **options) for word in many_words]
    assert [read_texts(reader, output.sequences)[0] for output in alone] == expected
    confidence = torch.cat([output.confidence for output in alone])
    torch.testing.assert_close(confidence, whole.confidence, rtol=1e-3, atol=1e-4)


def test_prediction_stops_when_every_text_has_ended(reader, words):
    short, longest = read(reader, words[3:4], refine_iters=0), read(reader, words, refine_iters=0)
    assert read_texts(reader, short.sequences) == ["24h"]
    assert short.logits.shape[1] == short.visual_logits.shape[1] == 4
    assert short.sequences.tolist() == [[95, 3, 5, 18, 0]]
    assert longest.visual_logits.shape[1] == POSITIONS
    together = read(reader, words, refine_iters=0, synced_gpus=True)
    assert read(reader, words[3:4], refine_iters=0, synced_gpus=True).logits.shape[1] == POSITIONS
    assert together.sequences.equal(longest.sequences)
    assert read(reader, words[3:4]).logits.shape[1] == POSITIONS  # the refinement asks for all of them


def test_processes_that_share_parameters_read_the_same(reader, many_words):
    assert texts(reader, many_words, synced_gpus=True) == texts(reader, many_words)


@pytest.mark.parametrize("call", ["generate", "by default", "forward"])
def test_processes_that_share_parameters_call_the_same(reader, many_words, call, monkeypatch):
    """Whatever is in the images: a call that one process leaves out, the others wait for."""
    if call != "generate":  # as in one of two processes under FSDP
        monkeypatch.setattr(generation_clip4str, "is_fsdp_managed_module", lambda module: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    owners = [reader.vision_tower.vision_model, reader.text_tower.text_model]
    calls = []
    for owner in (*owners, reader.visual_decoder, reader.cross_decoder):
        owner.register_forward_pre_hook(lambda module, *args: calls.append(type(module).__name__))
    sequences = set()
    for image in many_words[::4]:
        calls.clear()
        if call == "forward":
            reader(image[None])
        else:
            read(reader, image[None], **({"synced_gpus": True} if call == "generate" else {}))
        sequences.add(tuple(calls))
    for owner in (*owners, reader.visual_decoder, reader.cross_decoder):
        owner._forward_pre_hooks.clear()
    assert len(sequences) == 1


class Calls:
    """The rows of each call of a function, which is called all the same."""

    def __init__(self, monkeypatch, owner, name):
        self.rows, function = [], getattr(owner, name)

        def count(*args, **kwargs):
            if "features" not in kwargs:  # which a decoder is to read
                self.rows.append(len(args[0]))
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)


@pytest.mark.parametrize("options", [{}, {"refine_iters": 2}, {"visual_only": True}, {"max_length": 6}], ids=str)
def test_what_is_left_out_changes_no_text(reader, many_words, options):
    """All rows run all steps where processes must stay together: nothing is left out there."""
    plain, quick = read(reader, many_words, synced_gpus=True, **options), read(reader, many_words, **options)
    assert quick.sequences.equal(plain.sequences)
    assert quick.visual_sequences.equal(plain.visual_sequences)
    torch.testing.assert_close(quick.confidence, plain.confidence)


def test_rows_that_have_ended_leave_the_batch(reader, many_words, monkeypatch):
    steps = Calls(monkeypatch, reader.visual_decoder, "forward").rows
    texts = read_texts(reader, reader.generate(many_words, visual_only=True))
    *steps, refinement = steps
    assert refinement == steps[0] == len(many_words)
    assert steps == sorted(steps, reverse=True) and len(set(steps)) > 2
    assert sum(steps) < len(many_words) * (max(map(len, texts)) + 1)


def test_the_visual_text_is_the_draft_of_the_cross_modal_one(reader, many_words, monkeypatch):
    first = read(reader, many_words, refine_iters=0)
    pairs = zip(read_texts(reader, first.sequences), read_texts(reader, first.visual_sequences))
    agreeing = torch.tensor([text == visual_text for text, visual_text in pairs])
    assert 0 < agreeing.sum() < len(agreeing)
    calls = Calls(monkeypatch, reader.cross_decoder, "forward").rows
    reader.generate(many_words)
    assert calls[:2] == [len(agreeing), len(agreeing) - agreeing.sum()]
    calls.clear()
    reader.generate(many_words[agreeing])
    assert calls == [agreeing.sum()] * 2  # the confirmation and the refinement


def test_captions_are_encoded_together_and_again_only_where_changed(reader, many_words, monkeypatch):
    first, refined = (read(reader, many_words, refine_iters=count).visual_logits.argmax(-1) for count in (0, 1))
    changed = (reader.captioner(first) != reader.captioner(refined)).any(-1).sum()
    assert 0 < changed < len(many_words)
    calls = Calls(monkeypatch, reader, "get_text_features").rows
    reader.generate(many_words)
    assert calls == [len(many_words) + changed]


@pytest.mark.parametrize("options", SOME_MODES, ids=str)
def test_news_of_ended_rows_may_come_late(reader, many_words, options, monkeypatch):
    """On an accelerator the host learns of an end some steps after it."""
    expected = read(reader, many_words, **options)

    class Late(_EndWatch):
        def __init__(self):
            self.past = []

        def going_on(self, ended):
            self.past.append(ended)
            return super().going_on(self.past[-4] if len(self.past) > 3 else torch.zeros_like(ended))

    monkeypatch.setattr(generation_clip4str, "_EndWatch", Late)
    late = read(reader, many_words, **options)
    assert late.sequences.equal(expected.sequences)
    torch.testing.assert_close(late.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_a_compiled_reading_is_the_same():
    model = tiny_model()
    words = torch.randn(3, 3, 32, 32)
    torch._dynamo.reset()
    config = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
    for options in ({}, {"refine_iters": 2}, {"visual_only": True}):
        expected = read(model, words, **options)
        compiled = read(model, words, compile_config=config, **options)
        assert compiled.sequences.equal(expected.sequences)
        torch.testing.assert_close(compiled.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_a_copy_of_a_reader_compiles_its_own_reading():
    model, words = tiny_model(), torch.randn(2, 3, 32, 32)
    torch._dynamo.reset()
    options = {"compile_config": CompileConfig(backend="eager", mode=None), "visual_only": True, "refine_iters": 0}
    model.generate(words, **options)
    with torch._dynamo.config.patch(error_on_recompile=True):
        model.generate(words + 1, **options)  # finds what was compiled
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    with torch.no_grad():
        for parameter in other.visual_decoder.parameters():
            parameter.neg_()
    plain = other.generate(words, visual_only=True, refine_iters=0)
    assert other.generate(words, **options)[:, : plain.shape[1]].equal(plain)


def test_a_temperature_moves_no_character_in_half_precision():
    model = tiny_model().to(torch.bfloat16)
    words = torch.randn(64, 3, 32, 32, dtype=torch.bfloat16)
    expected = model.generate(words)
    model.config.confidence_temperature = 1.3
    output = read(model, words)
    assert output.sequences.equal(expected)
    assert output.logits.argmax(-1)[:, 0].equal(expected[:, 1].clamp(max=94))


def test_the_cross_modal_branch_goes_on_after_the_visual_branch(reader, words):
    """A cross-modal text that is longer than the visual ones keeps its tail."""

    class Shorten(LogitsProcessor):
        """Ends the visual text, which is decoded first, after one character."""

        steps = 0

        def __call__(self, input_ids, scores):
            self.steps += 1
            if self.steps == 2:
                scores = scores.clone()
                scores[:, 0] = 1e4
            return scores

    output = read(reader, words[:1], refine_iters=0, logits_processor=LogitsProcessorList([Shorten()]))
    assert output.visual_logits.shape[1] == 2
    assert len(read_texts(reader, output.sequences)[0]) > 2


def test_refinements_are_steps_of_their_own(reader, parity_small, words):
    outputs = [read(reader, words, refine_iters=count) for count in range(4)]
    assert not outputs[0].logits.equal(outputs[1].logits)
    assert not outputs[1].logits.equal(outputs[2].logits)
    expected = [parity_small.expected["settings"][f"ar_refine{count}"]["text"] for count in range(3)]
    assert [read_texts(reader, output.sequences) for output in outputs[:3]] == expected
    # Where a text no longer changes, neither does the reading.
    settled = (outputs[2].sequences == outputs[1].sequences).all(1)
    settled &= (outputs[2].visual_sequences == outputs[1].visual_sequences).all(1)
    settled &= (outputs[2].visual_logits - outputs[1].visual_logits).abs().amax((1, 2)) < 1e-3
    assert settled.any()
    torch.testing.assert_close(outputs[3].logits[settled], outputs[2].logits[settled], rtol=1e-3, atol=1e-3)


def test_non_autoregressive_prediction_is_one_step_from_the_begin_token(reader, words):
    output = read(reader, words, autoregressive=False, refine_iters=0)
    assert output.logits.shape == output.visual_logits.shape == (len(words), POSITIONS, 95)
    begin = torch.full((len(words), 1), 95)
    features = reader.get_image_features(words)
    decoder = reader.visual_decoder
    visual, _ = decoder(begin, decoder(features=features), num_queries=POSITIONS)
    torch.testing.assert_close(output.visual_logits, visual)
    captions = reader.get_text_features(reader.captioner(visual.argmax(-1)))
    memory = reader.cross_decoder(features=torch.cat([features, captions], dim=1))
    torch.testing.assert_close(output.logits, reader.cross_decoder(begin, memory, num_queries=POSITIONS)[0])
    refined = texts(reader, words, autoregressive=False)
    assert sum(a == b for a, b in zip(refined, texts(reader, words), strict=True)) > 0


def test_the_visual_branch_alone_needs_no_text_tower(reader, parity_small, words):
    without = copy.deepcopy(reader)
    without.text_tower = without.cross_decoder = without.captioner = None
    output = read(without, words, visual_only=True)
    assert read_texts(reader, output.sequences) == parity_small.expected["visual_refined_text"]
    assert output.logits.equal(output.visual_logits) and output.sequences.equal(output.visual_sequences)
    predicted = read(without, words, visual_only=True, refine_iters=0)
    assert read_texts(reader, predicted.sequences) == parity_small.expected["visual_ar_text"]


def test_a_single_cross_modal_pass_reads_the_visual_characters(reader, parity_small, words):
    output = read(reader, words, cross_modal_single_pass=True, refine_iters=0)
    visual = parity_small.expected["visual_ar_text"]
    assert read_texts(reader, output.visual_sequences) == visual
    context = torch.cat([torch.full((len(words), 1), 95), output.visual_logits.argmax(-1)[:, :-1]], dim=1)
    caption = reader.get_text_features(reader.captioner(output.visual_logits.argmax(-1)))
    memory = reader.cross_decoder(features=torch.cat([reader.get_image_features(words), caption], dim=1))
    for place in (0, 3, 10):  # only what comes before counts
        logits, _ = reader.cross_decoder(context[:, : place + 1], memory)
        torch.testing.assert_close(output.logits[:, place], logits[:, place], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"max_length": 5}, {"max_new_tokens": 4}])
def test_texts_can_be_shorter(reader, words, options):
    output = read(reader, words, **options)
    assert output.logits.shape[1] == 4
    assert output.sequences.shape == (len(words), 5)
    found = read_texts(reader, output.sequences)
    assert found[3] == "24h"
    assert max(map(len, found)) == 4  # no room for the end token
    assert len(read_texts(reader, read(reader, words, max_length=27).sequences)[0]) == len("Chicken")


@pytest.mark.parametrize(
    "options",
    [{"max_length": 28}, {"max_new_tokens": 27}, {"max_length": 1}, {"max_length": 0}, {"max_new_tokens": 3.0}],
)
def test_texts_cannot_be_longer_than_the_model_reads(reader, words, options):
    with pytest.raises(ValueError, match="this model reads sequences of 2 to 27 tokens"):
        reader.generate(words, **options)


UNSUPPORTED = {
    "num_beams": 2,
    "do_sample": True,
    "num_return_sequences": 2,
    "penalty_alpha": 0.6,
    "guidance_scale": 2.0,
    "prompt_lookup_num_tokens": 3,
    "stop_strings": "a",
    "max_time": 1.0,
    "cache_implementation": "static",
    "output_hidden_states": True,
    "output_logits": True,
    "num_beam_groups": 2,
    "constraints": ["a"],
    "force_words_ids": [[3]],
    "watermarking_config": WatermarkingConfig(),
    "token_healing": True,
    "dola_layers": "low",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_options_of_other_decodings_are_refused_by_name(reader, words, name):
    assert UNSUPPORTED.keys() == UNSUPPORTED_OPTIONS.keys()
    with pytest.raises(ValueError, match=name):
        reader.generate(words[:1], **{name: UNSUPPORTED[name]})


def test_unknown_options_and_wrong_values_are_refused(reader, words):
    with pytest.raises(ValueError, match="refine_itres"):
        reader.generate(words[:1], refine_itres=2)
    for wrong in (-1, 1.5, "2", None):
        with pytest.raises(ValueError, match="refine_iters="):
            reader.generate(words[:1], refine_iters=wrong)


def test_a_length_that_is_asked_for_goes_before_one_that_was_saved(reader, words):
    reader.generation_config.max_new_tokens = 3
    assert reader.generate(words).shape[1] == 4
    assert reader.generate(words, max_length=6).shape[1] == 6
    assert reader.generate(words, generation_config=GenerationConfig(max_length=6)).shape[1] == 6
    both = GenerationConfig(max_length=6, max_new_tokens=4)
    assert reader.generate(words, generation_config=both).shape[1] == 5
    assert reader.generate(words, generation_config=GenerationConfig(max_length=6), max_new_tokens=4).shape[1] == 5


def test_options_that_are_none_are_left_out(reader, words):
    assert reader.generate(words[:1], streamer=None, stopping_criteria=None).equal(reader.generate(words[:1]))


def test_a_text_ends_by_force_where_the_longest_does(reader, words):
    sequences = read(reader, words, max_new_tokens=3, forced_eos_token_id=0).sequences
    assert (sequences[:, 1:] == 0).any(-1).all() and (sequences[:, 1:3] != 0).all(-1).any()


class Wrapper(torch.nn.Module):
    """What PEFT puts around `modules_to_save`: one argument by place, the others as they come."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, *args, **kwargs):
        return self.module(x, *args, **kwargs)


def test_decoders_may_be_wrapped(reader, words, monkeypatch):
    expected = read(reader, words, refine_iters=2).logits
    labels = torch.tensor([[95, 1, 2, 0]])
    loss = reader(words[:1], labels=labels).loss
    for name in ("visual_decoder", "cross_decoder"):
        monkeypatch.setitem(reader._modules, name, Wrapper(getattr(reader, name)))
    assert read(reader, words, refine_iters=2).logits.equal(expected)
    assert reader(words[:1], labels=labels).loss == loss


def test_no_image_at_all_is_refused(reader, words):
    with pytest.raises(ValueError, match=r"pixel_values of shape \(0, 3, .* hold no image"):
        reader.generate(words[:0])
    with pytest.raises(ValueError, match="pixel_values None hold no image"):
        reader.generate()


def test_images_may_come_first_and_by_both_names(reader, words):
    expected = reader.generate(words)
    assert reader.generate(inputs=words).equal(expected) and reader.generate(pixel_values=words).equal(expected)
    with pytest.raises(ValueError, match=r"generate does not know \['pixel_values'\]"):
        reader.generate(words, pixel_values=words)


def test_what_is_of_other_models_says_where_to_go(reader, words):
    outputs = read(reader, words, output_scores=True)
    with pytest.raises(NotImplementedError, match="post_process_text_recognition"):
        reader.compute_transition_scores(outputs.sequences, outputs.scores)
    with pytest.raises(NotImplementedError, match="resize_charset"):
        reader.resize_token_embeddings(200)


def test_labels_are_ignored(reader, words):
    assert reader.generate(words, labels=torch.zeros(len(words), 3)).equal(reader.generate(words))


# What is returned


def test_sequences_hold_begin_text_end_and_padding(reader, words):
    sequences = reader.generate(words)
    assert sequences.shape == (len(words), POSITIONS + 1) and sequences.dtype == torch.long
    for row in sequences.tolist():
        end = row.index(0)
        assert row[0] == 95 and set(row[end + 1 :]) == {96} and all(1 <= index <= 94 for index in row[1:end])


def test_a_text_without_end_has_all_positions_and_their_probabilities(reader, words):
    output = read(reader, words, min_length=POSITIONS + 1)
    assert (output.sequences[:, 1:] > 0).all() and (output.sequences[:, 1:] < 95).all()
    product = output.logits.softmax(-1).amax(-1).prod(-1)
    torch.testing.assert_close(output.confidence, product)


def test_scores_are_the_logits_position_by_position(reader, words):
    output = read(reader, words, output_scores=True)
    assert isinstance(output, Clip4STRGenerateOutput)
    assert torch.stack(output.scores, 1).equal(output.logits)
    assert torch.stack(output.visual_scores, 1).equal(output.visual_logits)
    plain = read(reader, words)
    assert plain.scores is None and plain.logits.equal(output.logits)
    assert plain.image_features.equal(reader.get_image_features(words))
    assert isinstance(reader.generate(words), torch.Tensor)


@pytest.mark.parametrize("options", SOME_MODES, ids=str)
def test_attentions_are_weights_over_image_and_caption(reader, words, options):
    reader.set_attn_implementation("eager")
    output = read(reader, words, output_attentions=True, **options)
    batch, tokens, config = len(words), 17, reader.config
    assert [tuple(w.shape) for w in output.encoder_attentions] == [(batch, 2, tokens, tokens)] * 3
    (visual,) = output.visual_cross_attentions
    assert visual.shape == (batch, 8, output.visual_logits.shape[1], tokens)
    weights = [visual, *output.encoder_attentions]
    if options.get("visual_only"):
        assert output.cross_attentions is None
    else:
        (cross,) = output.cross_attentions
        assert cross.shape == (batch, 8, output.logits.shape[1], tokens + config.caption_context_length)
        weights.append(cross)
    for weight in weights:
        torch.testing.assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]))


def test_attentions_need_the_eager_implementation(reader, words):
    with pytest.raises(ValueError, match="output_attentions needs attn_implementation='eager'.*'sdpa'"):
        reader.generate(words, output_attentions=True)
    with pytest.raises(ValueError, match="set_attn_implementation"):
        reader(words, output_attentions=True)


# Constraints


def ids_of(model, characters):
    return [model.config.charset.index(character) + 1 for character in characters]


class Only(LogitsProcessor):
    """Allows some ids."""

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, input_ids, scores):
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        allowed[:, self.ids] = True
        return scores.masked_fill(~allowed, -torch.inf)


@pytest.mark.parametrize("options", [mode for mode in MODES if "max_length" not in mode], ids=str)
def test_a_logits_processor_holds_for_both_branches_and_every_pass(reader, words, options):
    digits = Only([0, *ids_of(reader, string.digits)])
    output = read(reader, words, logits_processor=LogitsProcessorList([digits]), **options)
    for sequences in (output.sequences, output.visual_sequences):
        assert all(set(text) <= set(string.digits) for text in read_texts(reader, sequences))
    assert output.logits[..., 11:].eq(-torch.inf).all()
    assert output.confidence.isfinite().all()


@pytest.mark.parametrize("options", SOME_MODES, ids=str)
def test_a_lexicon_limits_the_texts(reader, words, options):
    lexicon = ["Exit", "STOP", "24h", "Coffin", "Kitchen"]
    spelt = [[95, *ids_of(reader, word), 0] for word in lexicon]

    def allowed(batch, ids):
        ids = [index for index in ids.tolist() if index != 96]
        return [word[len(ids)] for word in spelt if word[: len(ids)] == ids and len(word) > len(ids)] or [0]

    found = texts(reader, words, prefix_allowed_tokens_fn=allowed, **options)
    assert set(found) <= set(lexicon)
    assert (found[1], found[3]) == ("STOP", "24h")


def test_a_lexicon_is_not_asked_what_follows_an_end(reader, words):
    lexicon = {(): ids_of(reader, "S2"), "S": ids_of(reader, "T"), "ST": [0], "2": [0]}

    def allowed(batch, ids):
        return lexicon["".join(reader.config.charset[index - 1] for index in ids[1:].tolist()) or ()]

    assert set(texts(reader, words, prefix_allowed_tokens_fn=allowed)) <= {"ST", "2"}


def test_a_pattern_may_hold_all_tokens(reader, words):
    # Begin and padding have ids too, but never follow.
    everything = set(range(len(reader.config.charset) + 3))
    assert texts(reader, words, prefix_allowed_tokens_fn=lambda batch, ids: everything) == texts(reader, words)


def test_a_pattern_may_differ_from_image_to_image(reader, words):
    digits, letters = ids_of(reader, string.digits), ids_of(reader, string.ascii_lowercase)

    def allowed(batch, ids):  # two of one kind
        return [0] if len(ids) > 2 else digits if batch % 2 else letters

    found = texts(reader, words, prefix_allowed_tokens_fn=allowed)
    for row, text in enumerate(found):
        assert len(text) == 2 and set(text) <= set(string.digits if row % 2 else string.ascii_lowercase)


def test_characters_can_be_suppressed(reader, words):
    upper = ids_of(reader, string.ascii_uppercase)
    found = texts(reader, words, suppress_tokens=upper)
    assert all(text == "" or not any(map(str.isupper, text)) for text in found)
    assert found[3] == "24h"


@pytest.mark.parametrize("options", [{"min_length": 8}, {"min_new_tokens": 7}])
def test_texts_can_have_a_least_length(reader, words, options):
    found = texts(reader, words, **options)
    assert min(map(len, found)) >= 7
    assert found[0] == "Chicken"


# Generation configurations


def test_a_generation_configuration_is_saved_and_loaded(reader, words, tmp_path):
    reader.generation_config.update(refine_iters=3, autoregressive=False, max_length=9)
    expected = reader.generate(words)
    reader.save_pretrained(tmp_path)
    loaded = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path)
    config = loaded.generation_config
    assert (config.refine_iters, config.autoregressive, config.max_length) == (3, False, 9)
    assert (config.visual_only, config.cross_modal_single_pass) == (False, False)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (95, 0, 96)
    assert loaded.generate(words).equal(expected)
    assert loaded(words).logits.shape[1] == 8
    (tmp_path / "generation_config.json").unlink()
    config = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path).generation_config
    assert (config.refine_iters, config.autoregressive, config.max_length) == (1, True, 27)


def test_generate_leaves_the_generation_configuration_of_the_model_alone(reader, words):
    before = reader.generation_config.to_dict()
    given = GenerationConfig(refine_iters=2, max_length=9)
    kept = given.to_dict()
    reader.generate(words, refine_iters=0, visual_only=True, max_length=5)
    reader.generate(words, generation_config=given, autoregressive=False)
    assert reader.generation_config.to_dict() == before
    assert given.to_dict() == kept


def test_a_generation_configuration_object_keeps_the_other_defaults(reader, words):
    expected = read(reader, words, refine_iters=0)
    given = read(reader, words, generation_config=GenerationConfig(refine_iters=0))
    assert given.sequences.equal(expected.sequences) and given.logits.equal(expected.logits)
    reader.generation_config.visual_only = True
    assert read(reader, words, generation_config=GenerationConfig(refine_iters=0)).logits.equal(expected.visual_logits)
    both = read(reader, words, generation_config=GenerationConfig(refine_iters=0), refine_iters=1, visual_only=False)
    assert both.logits.shape[1] == POSITIONS


@pytest.mark.parametrize("plain", [GenerationConfig(), GenerationConfig(max_new_tokens=3)], ids=["empty", "short"])
def test_a_plain_generation_configuration_is_completed(reader, words, plain):
    """Files of others, and `Seq2SeqTrainingArguments.generation_config`, put one in the place of the model's."""
    expected = read(reader, words, max_new_tokens=plain.max_new_tokens or POSITIONS)
    reader.generation_config = copy.deepcopy(plain)
    assert read(reader, words).sequences.equal(expected.sequences)
    reader.generation_config = copy.deepcopy(plain)
    assert reader(words).logits.equal(expected.logits)


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"])
def test_token_ids_are_no_options(reader, words, name):
    with pytest.raises(ValueError, match=f"{name}=5 must be .*: ids follow from the charset"):
        reader.generate(words, **{name: 5})


@pytest.mark.parametrize("name", ["autoregressive", "visual_only", "cross_modal_single_pass"])
def test_switches_are_true_or_false(reader, words, name):
    with pytest.raises(ValueError, match=f"{name}='no' must be True or False"):
        reader.generate(words, **{name: "no"})


def test_forward_reads_with_the_generation_configuration(reader, words):
    assert reader(words).logits.equal(read(reader, words).logits)
    reader.generation_config.refine_iters = 2
    assert reader(words).logits.equal(read(reader, words, refine_iters=2).logits)


def test_a_deep_decoder_refines_with_a_content_stream_that_sees_the_same():
    """Content and queries have one mask."""
    model = tiny_model(decoder_layers=2)
    pixel_values = torch.randn(4, 3, 32, 32)
    first, output = (read(model, pixel_values, refine_iters=count, visual_only=True) for count in (0, 1))
    positions = model.config.max_label_length + 1
    tokens = nn.functional.pad(first.logits.argmax(-1), (0, positions - first.logits.shape[1]))[:, : positions - 1]
    context = nn.functional.pad(tokens, (1, 0), value=model.config.bos_token_id)
    mask = torch.ones(4, 1, positions, positions).bool()
    for row in range(4):
        ended = False
        for key in range(positions):
            ended = ended or context[row, key] == 0
            for query in range(positions):
                mask[row, 0, query, key] = not ended and key != query + 1
    memory = model.visual_decoder(features=model.get_image_features(pixel_values))
    expected, _ = model.visual_decoder(context, memory, mask, mask)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
