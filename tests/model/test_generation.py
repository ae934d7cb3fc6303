"""Generation with a kv cache: against the uncached loop, with padded prompts, and with invalid arguments."""

import math
from itertools import product

import pytest
import torch

from model.transformer.generation import GenerationOptions, choose_tokens
from model.transformer.inputs import InputError
from model_factory.diffusion.randomness import RowGenerators
from tests.model import tiny

VOCAB = tiny.VOCAB
MIXERS = {
    "softmax": "softmax",
    "causal_linear": "causal_linear",
    "mixed": ["causal_linear", "softmax"],
}
SHAPES = [
    {},
    {"position": "absolute", "max_length": 90},
    {"position": "none"},
    {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True},
    {"feature_map": "relu", "tie_embeddings": True, "use_scalenorm": True},
    {"feature_map": "elu", "use_rezero": True},
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


SIZES = {"vocab_size": VOCAB, "tie_embeddings": False}  # a tied head of random weights repeats one token


def decoder(**changes):
    return tiny.sharpened(tiny.decoder(**{**SIZES, **changes}), 3.0)


def seq2seq(**changes):
    return tiny.sharpened(tiny.seq2seq(**{**SIZES, **changes}), 3.0)


def ids(*shape):
    return torch.randint(VOCAB, shape)


@torch.no_grad()
def uncached(logits_of, tokens, steps):
    """Continue greedily by processing the whole prefix for each token."""
    for _ in range(steps):
        tokens = torch.cat([tokens, logits_of(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


def left_padded(rows, filler=0):
    """Pad rows of different lengths on the left; return the batch and its mask."""
    size = max(len(row) for row in rows)
    mask = tiny.lengths_mask([len(row) for row in rows], size).flip(1)
    tokens = torch.full((len(rows), size), filler)
    tokens[mask] = torch.cat(rows)
    return tokens, mask


def right_padded(rows, filler=0):
    tokens, mask = left_padded([row.flip(0) for row in rows], filler)
    return tokens.flip(1), mask.flip(1)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_greedy_equals_the_uncached_loop(mixer, shape):
    model = decoder(attention_type=MIXERS[mixer], **shape)
    prompts = ids(3, 70)  # beyond one chunk of the causal core
    out = model.generate(prompts, 12, temperature=0.0)
    assert torch.equal(out, uncached(model, prompts, 12))
    assert out[:, 70:].unique().numel() > 1 or shape.get("tie_embeddings")


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_greedy_encoder_decoder_equals_the_uncached_loop(mixer, shape):
    if mixer == "mixed":
        model = tiny.EncoderDecoderTransformer(
            tiny.params(attention_type=["linear", "softmax"], **SIZES, **shape),
            tiny.params(attention_type=["causal_linear", "softmax"], **SIZES, **shape),
        )
        model = tiny.sharpened(model, 3.0)
    else:
        model = seq2seq(attention_type=mixer, **shape)
    source, mask, prompts = ids(2, 17), tiny.lengths_mask([17, 9], 17), ids(2, 3)
    out = model.generate(source, prompts, 10, temperature=0.0, source_mask=mask)
    assert torch.equal(out, uncached(lambda tokens: model(source, tokens, mask), prompts, 10))
    alone = model.generate(source[1:, :9], prompts[1:], 10, temperature=0.0)
    assert torch.equal(out[1:], alone)
    started = model.generate(source, 4, 5, temperature=0.0, source_mask=mask)
    first = torch.full((2, 1), 4)
    assert torch.equal(started, model.generate(source, first, max_new_tokens=5, temperature=0.0, source_mask=mask))


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("position", ["rotary", "absolute", "none"])
@pytest.mark.parametrize("pad", [left_padded, right_padded])
@pytest.mark.parametrize("beams", [1, 3])
def test_padded_prompts_continue_like_unpadded_ones(mixer, position, pad, beams):
    model = decoder(attention_type=MIXERS[mixer], position=position, max_length=20)
    rows = [ids(4), ids(9), ids(1)]
    tokens, mask = pad(rows, filler=-100)  # ids of the padding are ignored
    out = model.generate(tokens, 8, temperature=0.0, mask=mask, num_beams=beams)
    assert torch.equal(out[:, :9], tokens)
    for row, new in zip(rows, out[:, 9:], strict=True):
        assert torch.equal(model.generate(row[None], 8, temperature=0.0, num_beams=beams)[0, len(row) :], new)


def test_step_logits_equal_those_of_the_sequence():
    context = torch.randn(2, 5, 16)
    model = decoder(attention_type=["softmax", "causal_linear"], use_cross_attention=True)
    tokens = ids(2, 9)
    wanted = model(tokens, context)
    logits, state = model.start(tokens[:, :4], context)  # without capacity: the cache grows
    for place in range(4, 9):
        assert tiny.gap(logits, wanted[:, place - 1]) < 1e-5
        logits = model.step(tokens[:, place : place + 1], state)
    assert tiny.gap(logits, wanted[:, -1]) < 1e-5
    assert state.lengths.tolist() == [9, 9]


def test_kv_cache_without_capacity_grows_with_its_mask():
    model = decoder()
    tokens = ids(2, 9)
    mask = torch.tensor([[True] * 4, [False, False, True, True]])
    logits, state = model.start(tokens[:, :4], mask=mask)
    for place in range(4, 9):
        logits = model.step(tokens[:, place : place + 1], state)
    assert tiny.gap(logits[:1], model(tokens[:1])[:, -1]) < 1e-5
    assert tiny.gap(logits[1:], model(tokens[1:, 2:])[:, -1]) < 1e-5
    assert state.lengths.tolist() == [9, 7]


def test_step_takes_float_input():
    model = tiny.decoder(attention_type="causal_linear", input_dim=5)
    x = torch.randn(2, 6, 5)
    out, state = model.start(x[:, :5])
    assert tiny.gap(out, model(x[:, :5])[:, -1]) < 1e-5
    assert tiny.gap(model.step(x[:, 5:], state), model(x)[:, -1]) < 1e-5
    with pytest.raises(InputError, match=r"a step takes one token of each row: \[B, 1\]"):
        model.step(x, state)


def test_linear_state_size_is_constant():
    model = decoder(attention_type="causal_linear")

    def size(length):
        _, state = model.start(ids(1, length))
        return sum(part.numel() for layer in state.layers for part in layer.cache.state)

    assert size(3) == size(2000)


def test_generate_pads_finished_rows():
    model = decoder()
    prompts = ids(4, 3)
    free = model.generate(prompts, 12, temperature=0.0)[:, 3:]
    eos = int(free[0, 2])
    for pad in (None, 7):
        out = model.generate(prompts, 12, temperature=0.0, eos_token=eos, pad_token=pad)[:, 3:]
        for row, new in zip(free, out, strict=True):
            end = row.tolist().index(eos) + 1 if eos in row else 12
            assert torch.equal(new[:end], row[: min(end, out.shape[1])])
            assert (new[end:] == (eos if pad is None else pad)).all()


def test_generate_stops_when_every_row_has_ended():
    model = decoder()
    prompts = ids(1, 3).repeat(2, 1)
    eos = int(model.generate(prompts, 1, temperature=0.0)[0, 3])
    assert model.generate(prompts, 9, temperature=0.0, eos_token=eos).shape == (2, 4)


def every_continuation(model, prompt, steps, vocab, eos):
    """List each continuation up to `eos` or `steps` tokens, with its log-probability."""
    found = {}
    for tail in product(range(vocab), repeat=steps):
        end = tail.index(eos) + 1 if eos in tail else steps
        if any(token != eos for token in tail[end:]):
            continue
        rows = torch.cat([prompt, torch.tensor(tail)])[None]
        log_probs = model(rows).log_softmax(-1)[0, len(prompt) - 1 : -1]
        found[tail] = float(log_probs[torch.arange(end), torch.tensor(tail[:end])].sum()), end
    return found


@pytest.mark.parametrize("attention_type", ["softmax", "causal_linear"])
@pytest.mark.parametrize("eos", [None, 2])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@torch.no_grad()
def test_wide_beam_search_finds_the_global_optimum(attention_type, eos, penalty):
    model = decoder(attention_type=attention_type, vocab_size=4)
    prompts = torch.randint(4, (3, 5))
    out = model.generate(prompts, 3, num_beams=16, eos_token=eos, length_penalty=penalty)
    assert out.shape == (3, 8)
    for prompt, new in zip(prompts, out[:, 5:].tolist(), strict=True):
        found = every_continuation(model, prompt, 3, 4, eos)
        best = max(score / length**penalty for score, length in found.values())
        score, length = found[tuple(new)]
        assert math.isclose(score / length**penalty, best, abs_tol=1e-5)


@torch.no_grad()
def test_narrow_beam_search_equals_a_plain_one():
    model = decoder(attention_type=["causal_linear", "softmax"], vocab_size=6)
    prompt = torch.randint(6, (4,))
    beams = [(0.0, [])]
    for _ in range(5):
        grown = []
        for score, tail in beams:
            log_probs = model(torch.cat([prompt, torch.tensor(tail, dtype=torch.long)])[None])[0, -1].log_softmax(-1)
            grown += [(score + float(log_probs[token]), [*tail, token]) for token in range(6)]
        beams = sorted(grown, reverse=True)[:2]
    assert model.generate(prompt[None], 5, num_beams=2)[0, 4:].tolist() == beams[0][1]


@torch.no_grad()
def test_beams_of_an_encoder_decoder_keep_their_source():
    model = seq2seq(attention_type="causal_linear")
    source, mask = ids(3, 8), tiny.lengths_mask([8, 3, 5], 8)
    out = model.generate(source, 0, 6, num_beams=4, source_mask=mask)
    for row in range(3):
        alone = model.generate(source[row : row + 1, : int(mask[row].sum())], 0, 6, num_beams=4)
        assert torch.equal(out[row : row + 1], alone)


def test_sampling_uses_only_the_generator():
    model = decoder()
    prompts = ids(2, 4)

    def drawn(seed):
        return model.generate(prompts, 20, generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)


def test_rows_with_streams_do_not_depend_on_their_batch():
    model, prompts = decoder(), ids(5, 4)
    streams = RowGenerators.from_seed(1, torch.arange(5))
    whole = model.generate(prompts, 12, generator=streams)
    again = RowGenerators.from_seed(1, torch.tensor([3, 1]))
    assert torch.equal(model.generate(prompts[[3, 1]], 12, generator=again), whole[[3, 1]])
    with pytest.raises(InputError, match="generator has 5 streams, and there are 2 prompts"):
        model.generate(prompts[:2], 1, generator=streams)
    logits = torch.full((2, 3), torch.nan)
    with pytest.raises(InputError, match="logits are not finite"):
        choose_tokens(logits, GenerationOptions(1, generator=again))


LOGITS = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"temperature": 0.5}, [0.25, 0.04, 0.0225, 0.01, 0.0025]),
        ({"top_k": 2}, [0.5, 0.2, 0, 0, 0]),
        ({"top_k": 99}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"top_p": 0.6}, [0.5, 0.2, 0, 0, 0]),
        ({"top_p": 0.75}, [0.5, 0.2, 0.15, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [0.5, 0.2, 0, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"temperature": 1e-40}, [1, 0, 0, 0, 0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("by_row", [False, True])
def test_sampling_follows_the_probabilities(options, wanted, by_row):
    count = 20_000
    shuffle = torch.tensor([3, 0, 4, 1, 2])
    streams = RowGenerators.from_seed(0, torch.arange(count))
    generator = streams if by_row else torch.Generator().manual_seed(0)
    options = GenerationOptions(1, generator=generator, **options)
    drawn = choose_tokens(LOGITS[shuffle].expand(count, -1), options)
    seen = torch.zeros(5).index_add(0, shuffle[drawn], torch.ones(count)) / count
    wanted = torch.tensor(wanted, dtype=torch.float) / sum(wanted)
    assert ((seen - wanted).abs() < 5 * (wanted * (1 - wanted) / count).sqrt() + 1e-9).all()


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-38])
def test_sampling_at_tiny_temperature_is_greedy(temperature):
    """In float32 such a temperature is 0, and the logit of the most likely token was NaN."""
    logits = torch.tensor([[0.0, 3.0, 2.0], [-5.0, -7.0, -6.0]])
    assert choose_tokens(logits, GenerationOptions(1, temperature=temperature)).tolist() == [1, 0]


def test_generate_restores_the_model():
    model = decoder(attention_type="causal_linear", feature_redraw_interval=1, dropout=0.5).train()
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prompts = ids(2, 3)
    out = model.generate(prompts, 5, temperature=0.0)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(out, model.eval().generate(prompts, 5, temperature=0.0))
    with pytest.raises(InputError):
        model.train().generate(torch.full((1, 3), 99), 5)
    assert model.training
    assert model(out).sum().requires_grad  # the tokens can be trained on


def test_generate_in_half_precision():
    model = decoder(attention_type=["causal_linear", "softmax"], qk_norm=True).bfloat16()
    tokens, mask = left_padded([ids(3), ids(5)])
    for beams in (1, 2):
        assert model.generate(tokens, 4, mask=mask, num_beams=beams).shape == (2, 9)


TOKENS = torch.ones(2, 3, dtype=torch.long)
REFUSED = [
    ({}, {"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1; got 0"),
    ({}, {"max_new_tokens": 2.0}, "max_new_tokens must be an integer of at least 1; got 2.0"),
    ({}, {"temperature": -0.1}, "temperature must be a number of at least 0.0 (0.0 is greedy); got -0.1"),
    ({}, {"temperature": math.nan}, "(0.0 is greedy); got nan"),
    ({}, {"top_p": 0.0}, "top_p must be a probability above 0.0 and up to 1.0; got 0.0"),
    ({}, {"top_p": 1.5}, "up to 1.0; got 1.5"),
    ({}, {"top_k": 0}, "top_k must be an integer of at least 1; got 0"),
    ({}, {"num_beams": 0}, "num_beams must be an integer of at least 1; got 0"),
    ({}, {"num_beams": 2, "top_k": 3}, "top_k needs sampling, and beam search (num_beams 2) has none; leave it out"),
    ({}, {"num_beams": 2, "temperature": 0.7}, "temperature 0.7 needs sampling"),
    ({}, {"length_penalty": 1.0}, "length_penalty 1.0 ranks beams, and num_beams is 1; set num_beams to 2"),
    ({}, {"eos_token": VOCAB}, "eos_token must be a token id, an integer from 0 to 10; got 11"),
    ({}, {"eos_token": -1}, "from 0 to 10; got -1"),
    ({}, {"pad_token": 1.0}, "pad_token must be a token id, an integer from 0 to 10; got 1.0"),
    ({}, {"tokens": TOKENS[:, :0]}, "the prompt is empty, int64 [2, 0]"),
    ({}, {"tokens": TOKENS[0]}, "tokens must be token ids, int [B, N]; got int64 [3]"),
    ({}, {"tokens": TOKENS.float()}, "int [B, N]; got float32 [2, 3]"),
    ({}, {"tokens": [[1, 2]]}, "int [B, N]; got a list"),
    ({}, {"tokens": TOKENS + 10}, "token id 11 is out of range"),
    ({}, {"mask": TOKENS}, "mask must be bool [2, 3], True at real tokens; got int64 [2, 3]"),
    ({}, {"mask": torch.tensor([[True] * 3, [False] * 3])}, "the prompt of row 1 is empty: its mask is all False"),
    ({}, {"mask": torch.tensor([[True, False, True]] * 2)}, "the mask of row 0 has padding between tokens"),
    ({}, {"context": torch.zeros(2, 3, 16)}, "this stack has no cross-attention"),
    ({"use_cross_attention": True}, {}, "a stack with cross-attention needs context"),
    (
        {"vocab_size": None},
        {},
        "this decoder does not take tokens, so it cannot generate; set vocab_size in its section",
    ),
    ({"input_dim": 5}, {}, "leave input_dim out"),
    ({"max_length": 7}, {}, "a prompt of 3 tokens and max_new_tokens 5 need 8 positions; max_length is 7"),
]


@pytest.mark.parametrize(("changes", "given", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_generate_invalid_arguments(changes, given, message):
    with pytest.raises(InputError) as caught:
        decoder(**changes).generate(**{"tokens": TOKENS, "max_new_tokens": 5, **given})
    assert message in str(caught.value)


def test_generate_max_length_counts_real_tokens():
    model = decoder(position="absolute", max_length=7)
    tokens, mask = left_padded([ids(2), ids(3)])
    tokens, mask = torch.nn.functional.pad(tokens, (4, 0)), torch.nn.functional.pad(mask, (4, 0))
    assert model.generate(tokens, 4, mask=mask).shape == (2, 11)
    _, state = model.start(ids(1, 7))
    with pytest.raises(InputError, match="the sequence has 8 positions, and max_length is 7"):
        model.step(ids(1, 1), state)


def test_watch_sees_the_new_tokens_after_each_of_them():
    model, shown = decoder(), []
    found = model.generate(ids(2, 3), 4, temperature=0.0, watch=lambda tokens: shown.append(tokens.clone()))
    assert [tuple(tokens.shape) for tokens in shown] == [(2, 1), (2, 2), (2, 3), (2, 4)]
    assert all(torch.equal(tokens, found[:, 3 : 3 + tokens.shape[1]]) for tokens in shown)
