"""Attention layer and its decoding state (kv cache or sums) against attention written out in float64."""

import pytest
import torch
from torch import Tensor

from model.attention.cores import LinearCore, SoftmaxCore, make_core
from model.attention.decoding_state import (
    CoreState,
    KeyValueCache,
    LayerState,
    RunningSums,
    align_left,
    make_core_state,
)
from model.attention.feature_redraw import orthogonal_projections
from model.attention.multi_head import MultiHeadAttention
from model.attention.rotary import rotary_angles
from tests.model.tiny import gap, lengths_mask, params
from tests.oracles import attention as oracle

ROWS, TOKENS, WIDTH, HEADS = 2, 9, 16, 4


def layer(**changes) -> MultiHeadAttention:
    torch.manual_seed(0)
    made = MultiHeadAttention(params(d_model=WIDTH, num_heads=HEADS, **changes)).eval()
    for name in ("q_norm", "k_norm"):
        weight = getattr(getattr(made, name), "weight", None)
        if weight is not None:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    features = getattr(made.core, "features", None)
    if hasattr(features, "projection_matrix"):
        features.projection_matrix.copy_(orthogonal_projections(*features.projection_matrix.shape, 3))
    return made


def random_input(tokens: int = TOKENS, seed: int = 1) -> Tensor:
    return 2 * torch.randn(ROWS, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def rotated_by_position(x: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of x [B, H, N, D] by n 10000^(-2 i / D), as complex numbers."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[2])[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    numbers = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones(()), angle)
    return torch.cat([numbers.real, numbers.imag], -1)


def written_out(
    made: MultiHeadAttention, x: Tensor, context: Tensor, *, causal=False, mask=None, rotated=False, kv_prefix=None
):
    def heads(y: Tensor, linear: torch.nn.Linear, norm: torch.nn.Module | None = None) -> Tensor:
        split = (y.double() @ linear.weight.double().T).reshape(*y.shape[:2], -1, WIDTH // HEADS).permute(0, 2, 1, 3)
        if not isinstance(norm, torch.nn.RMSNorm):
            return split
        size = (split.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
        return split / size * norm.weight.double()

    q, k, v = heads(x, made.to_q, made.q_norm), heads(context, made.to_k, made.k_norm), heads(context, made.to_v)
    if rotated:
        q, k = rotated_by_position(q), rotated_by_position(k)
    if kv_prefix is not None:
        slots = kv_prefix.shape[2]
        k, v = k.clone(), v.clone()
        k[:, :, :slots] = v[:, :, :slots] = kv_prefix.double()
    same = HEADS // k.shape[1]
    k, v = (torch.stack([part] * same, 2).flatten(1, 2) for part in (k, v))
    if isinstance(made.core, SoftmaxCore):
        out = oracle.softmax_attention(q, k, v, key_mask=mask, causal=causal)
    else:
        projection = made.core.features.projection_matrix
        out = oracle.linear_attention(
            q, k, v, feature_map="favor+", projection=projection, key_mask=mask, causal=causal
        )
    return out.permute(0, 2, 1, 3).flatten(2) @ made.to_out.weight.double().T + made.to_out.bias.double()


OPTIONS = [{}, {"qk_norm": True}, {"num_kv_heads": 2}, {"num_kv_heads": 1, "qk_norm": True}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("attention_type", ["softmax", "causal_linear"])
def test_attention_layer_agrees_with_oracle(attention_type: str, options: dict) -> None:
    made, x, context = layer(attention_type=attention_type, **options), random_input(), random_input(5, seed=2)
    mask, of_context = lengths_mask([9, 6], TOKENS), lengths_mask([3, 5], 5)
    rotation = rotary_angles(TOKENS, WIDTH // HEADS, torch.device("cpu"))
    assert gap(made(x, causal=True), written_out(made, x, x, causal=True)) < 1e-5
    assert gap(made(x, key_mask=mask), written_out(made, x, x, mask=mask)) < 1e-5
    assert gap(made(x, context, key_mask=of_context), written_out(made, x, context, mask=of_context)) < 1e-5
    kept = made.cache_context(context, of_context)
    assert gap(made(x, kept), written_out(made, x, context, mask=of_context)) < 1e-5
    found = made(x, key_mask=mask, causal=True, rotation=rotation)
    assert gap(found, written_out(made, x, x, mask=mask, causal=True, rotated=True)) < 1e-5
    kv_prefix = torch.randn(ROWS, options.get("num_kv_heads", HEADS), 3, WIDTH // HEADS, dtype=torch.float64)
    found = made(x, causal=True, kv_prefix=kv_prefix)
    assert found.dtype == torch.float32
    assert gap(found, written_out(made, x, x, causal=True, kv_prefix=kv_prefix)) < 1e-5


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("attention_type", ["softmax", "causal_linear"])
@pytest.mark.parametrize("capacity", [0, 2, 20])
def test_decoding_equals_the_whole_sequence(attention_type: str, options: dict, capacity: int) -> None:
    made, x = layer(attention_type=attention_type, **options), random_input()
    mask = lengths_mask([4, 2], 4)
    whole = torch.cat([mask, torch.ones(ROWS, TOKENS - 4, dtype=torch.bool)], 1)
    for prompt, visible in ((mask, whole), (None, None)):
        wanted = written_out(made, x, x, causal=True, mask=visible)
        state = made.new_state(capacity)
        outs = [made(x[:, :4], key_mask=prompt, causal=True, cache=state)]
        for place in range(4, TOKENS):
            outs.append(made(x[:, place : place + 1], causal=True, cache=state))
            if place == 6:  # rows may be reordered while decoding
                state.select(torch.tensor([1, 0]))
                x, wanted, outs = x.flip(0), wanted.flip(0), [out.flip(0) for out in outs]
        assert gap(torch.cat(outs, 1), wanted) < 1e-5


def test_kv_cache_mask_added_late_keeps_earlier_keys() -> None:
    made, x = layer(attention_type="softmax"), random_input()
    state = made.new_state(1)
    made(x[:, :4], causal=True, cache=state)
    late = torch.tensor([[False], [True]])
    made(x[:, 4:5], key_mask=late, causal=True, cache=state)
    out = made(x[:, 5:6], causal=True, cache=state)
    mask = torch.cat([torch.ones(ROWS, 4, dtype=torch.bool), late, torch.ones(ROWS, 1, dtype=torch.bool)], 1)
    assert gap(out, written_out(made, x[:, :6], x[:, :6], causal=True, mask=mask)[:, 5:]) < 1e-5


class Sized(torch.nn.Module):
    """Custom core that needs as many key heads as query heads."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, causal: bool) -> Tensor:
        assert q.shape[1] == k.shape[1] == v.shape[1]
        assert not causal
        return oracle.softmax_attention(q, k, v, key_mask=key_mask, causal=False).float()


def test_kv_cache_type_and_capacity_fit_the_core() -> None:
    linear, softmax = layer(attention_type="linear").core, layer(attention_type="softmax").core
    assert isinstance(linear, LinearCore)
    assert isinstance(make_core(params(attention_type="softmax")), SoftmaxCore)
    assert isinstance(make_core_state(linear, 3), RunningSums)
    assert isinstance(make_core_state(softmax, 3), KeyValueCache)
    q, k, v = (torch.randn(ROWS, heads, 5, 4) for heads in (4, 2, 2))
    cache = make_core_state(Sized(), 3)
    cache.update(k, v, lengths_mask([5, 2], 5))
    wide = [part.repeat_interleave(2, 1) for part in (k, v)]
    wanted = oracle.softmax_attention(q, *wide, key_mask=lengths_mask([5, 2], 5), causal=False)
    assert gap(cache.attend(q), wanted) < 1e-5
    assert cache.keys.shape[2] == 8  # the keys of the prompt and the reserved capacity
    cache.update(k[:, :, :3], v[:, :, :3])
    assert cache.keys.shape[2] == 8
    cache.update(k[:, :, :1], v[:, :, :1])
    assert cache.keys.shape[2] == cache.mask.shape[1] == 16
    assert cache.length == 9

    class Own(Sized):
        def decoding_state(self, capacity: int) -> CoreState:
            return KeyValueCache(self, capacity + 100)

    assert make_core_state(Own(), 3).capacity == 103


def test_layer_state_selects_rows() -> None:
    k = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 1)
    for with_context in (True, False):
        states = [KeyValueCache(SoftmaxCore(), 0) for _ in range(2)]
        for state in states:
            state.update(k, k)
        LayerState(*states).select(torch.tensor([2, 0]), context=with_context)
        assert states[0].keys[:, 0, 0, 0].tolist() == [2, 0]
        assert states[1].values[:, 0, 0, 0].tolist() == ([2, 0] if with_context else [0, 1, 2])
    LayerState(None, k).select(torch.tensor([0]), context=True)
    for empty in (KeyValueCache(SoftmaxCore(), 0), RunningSums(layer(attention_type="linear").core)):
        empty.select(torch.tensor([0]))


def test_align_left_moves_tokens_to_the_front() -> None:
    x = torch.arange(8).reshape(2, 4)
    mask = torch.tensor([[False, True, True, False], [False, False, False, True]])
    moved, kept = align_left(x, mask)
    assert kept.tolist() == [[True, True], [True, False]]
    assert moved[0].tolist() == [1, 2]
    assert moved[1, 0] == 7
    assert align_left(x, torch.ones(2, 4, dtype=torch.bool))[0].tolist() == x.tolist()


@pytest.mark.parametrize("std", [0.01, 300.0])
def test_running_sums_updated_in_parts_agree(std: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with log features far from 0, positive and negative."""
    monkeypatch.setattr("model.attention.decoding_state.KEYS_PER_UPDATE", 4)
    core = layer(attention_type="linear").core
    q, k, v = (std * torch.randn(2, HEADS, 11, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1, 2))
    mask = lengths_mask([11, 6], 11)
    state = RunningSums(core)
    state.update(k, v, mask)
    once = core.attend(core.update(core.initial_state(k), k, v, key_mask=mask), q)
    assert gap(state.attend(q), once) < 1e-5
