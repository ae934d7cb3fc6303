"""Packed rows with isolated documents: each document gets the output, and gives the gradients, that it has alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.attention.cores import SoftmaxCore
from model.attention.documents import Documents
from model.core_registry import CORES, register_attention
from model.denoisers.calling import DenoiserCallError
from model.denoisers.pretrained import PretrainedError
from model.discrete.model import DiffusionModel
from model.transformer.inputs import InputError
from model_factory.diffusion.randomness import RowGenerators
from tests.model import test_hugging_face_denoiser as hugging_face
from tests.model import tiny
from tests.model.test_block_model import build as build_blocks
from tests.model.test_diffusion_model import LENGTH, VOCAB, build

NUMBERS = torch.tensor([[1] * 5 + [2] * 70 + [3] + [4] * 20, [7] * 96, [1] * 33 + [2] * 31 + [0] * 32])
"""Documents of three rows: of one token, longer than a chunk of linear attention, a whole row, and padding."""
EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}
STACKS = [
    ("decoder", "softmax"),
    ("decoder", "causal_linear"),
    ("decoder", ["softmax", "causal_linear"]),
    ("encoder", "softmax"),
    ("encoder", "linear"),
    ("encoder", "causal_linear"),
    ("encoder", ["linear", "softmax"]),
]


def pieces(documents: Tensor) -> list[tuple[int, Tensor]]:
    """Return the row and the positions, bool [N], of each document; 0 is padding."""
    return [(row, ids == number) for row, ids in enumerate(documents) for number in ids.unique() if number]


def stack(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return getattr(tiny, kind)(vocab_size=tiny.VOCAB, max_length=96, **changes)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(tiny.VOCAB, NUMBERS.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("position", ["rotary", "absolute"])
@pytest.mark.parametrize(("kind", "attention"), STACKS, ids=str)
def test_a_packed_document_is_computed_as_alone(kind, attention, position, dtype, tokens) -> None:
    model = stack(kind, attention_type=attention, position=position).to(dtype)
    packed = model(tokens, mask=NUMBERS > 0, documents=NUMBERS)
    for row, where in pieces(NUMBERS):
        alone = model(tokens[row, where][None])[0]
        torch.testing.assert_close(packed[row, where], alone, atol=EXACT[dtype], rtol=0)


@pytest.mark.parametrize("feature_map", ["favor++", "favor#", "relu", "elu"])
def test_packed_documents_with_every_feature_map_and_grouped_heads(feature_map: str, tokens: Tensor) -> None:
    model = stack("encoder", attention_type="linear", feature_map=feature_map, num_kv_heads=1, qk_norm=True).double()
    packed = model(tokens, mask=NUMBERS > 0, documents=NUMBERS)
    for row, where in pieces(NUMBERS):
        torch.testing.assert_close(packed[row, where], model(tokens[row, where][None])[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize(("kind", "attention"), STACKS[:6], ids=str)
def test_gradients_of_packed_documents_are_those_of_documents_alone(kind, attention, tokens) -> None:
    model = stack(kind, attention_type=attention).double()
    weights = torch.randn(*NUMBERS.shape, tiny.VOCAB, dtype=torch.float64)
    (model(tokens, mask=NUMBERS > 0, documents=NUMBERS) * weights)[NUMBERS > 0].sum().backward()
    packed = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    for row, where in pieces(NUMBERS):
        (model(tokens[row, where][None])[0] * weights[row, where]).sum().backward()
    for given, parameter in zip(packed, model.parameters(), strict=True):
        assert tiny.gap(given, parameter.grad) < 1e-10


@pytest.mark.parametrize(("kind", "attention"), STACKS, ids=str)
def test_nothing_leaks_between_packed_documents(kind, attention) -> None:
    model = stack(kind, attention_type=attention)
    x = torch.randn(*NUMBERS.shape, 16, requires_grad=True)
    own = NUMBERS == 2
    out = model(x, documents=NUMBERS)
    out[own].square().sum().backward()
    assert float(x.grad[own].abs().min()) > 0
    assert float(x.grad[~own].abs().max()) == 0
    changed = torch.where(own[..., None], x, 100 * torch.randn_like(x)).detach()
    assert torch.equal(model(changed, documents=NUMBERS)[own], out[own])


def test_a_custom_core_isolates_documents_without_knowing_them(tokens: Tensor) -> None:
    class Plain(nn.Module):
        def forward(self, q, k, v, *, key_mask=None, causal):
            return SoftmaxCore()(q, k, v, key_mask=key_mask, causal=causal)

    register_attention("plain-core")(lambda params: Plain())
    try:
        model, usual = (stack("decoder", attention_type=name).double() for name in ("plain-core", "softmax"))
        given = model(tokens, documents=NUMBERS), usual(tokens, documents=NUMBERS)
        torch.testing.assert_close(*given, atol=1e-12, rtol=0)
    finally:
        CORES._entries.pop("plain-core")


def test_softmax_over_packed_documents_is_one_graph(tokens: Tensor) -> None:
    model = stack("decoder")
    torch._dynamo.reset()
    one_graph = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(one_graph(tokens, documents=NUMBERS), model(tokens, documents=NUMBERS))


def test_running_means_count_a_packed_step_once(tokens: Tensor) -> None:
    model = stack("encoder", attention_type="linear", feature_map="favor++", num_layers=1).train()
    other = stack("encoder", attention_type="linear", feature_map="favor++", num_layers=1).train()
    model(tokens, documents=torch.ones_like(tokens))
    other(tokens)
    torch.testing.assert_close(model.state_dict(), other.state_dict())


def test_documents_of_similar_lengths_are_padded_to_less_than_twice_their_tokens() -> None:
    lengths = torch.randint(1, 90, (400,)).tolist()
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    classes = Documents(ids[None]).length_classes
    assert sum(found.tokens.numel() for found in classes) < 2 * len(ids)
    assert len(classes) <= 8
    real = torch.cat([found.tokens[found.is_real] for found in classes])
    assert sorted(real.tolist()) == list(range(len(ids)))


@pytest.mark.parametrize(
    "documents", [torch.ones(2, 3), torch.ones(2, 4, dtype=torch.long), torch.ones(2, 3).bool(), 1]
)
def test_documents_of_another_shape_are_refused(documents: Any) -> None:
    with pytest.raises(InputError, match=r"documents must be int \[2, 3\], the number of each token's document; got "):
        stack("decoder")(torch.zeros(2, 3, dtype=torch.long), documents=documents)


# Denoisers: the noise level of a row is that of each of its documents.


WIDE = {"d_model": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
BERT = {"type": "bert", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "max_length": 96}
BACKBONES: dict[str, dict[str, Any]] = {
    "ddit": {"type": "ddit", **WIDE, "cond_dim": 8},
    "performer softmax": {"type": "performer", **WIDE},
    "performer linear": {"type": "performer", **WIDE, "attention_type": "linear"},
    "performer mixed": {"type": "performer", **WIDE, "attention_type": ["linear", "softmax"]},
    "bert": BERT,
    "bert absolute": {**BERT, "position": "absolute", "time_injection": "input"},
}


def denoiser(backbone: dict[str, Any], **parts: Any) -> DiffusionModel:
    model = build(backbone=backbone, **parts).eval()
    for name, parameter in model.named_parameters():  # adaLN is initialised to zero, which would hide the inputs
        if parameter.dim() > 1 and "embedding" not in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def assert_denoised_as_alone(model: Any, dtype: torch.dtype, size: int, documents: Tensor = NUMBERS) -> None:
    """Compare packed rows with their documents alone, and check that a document changes no other."""
    model, level = model.to(dtype), torch.tensor([0.3, 1.0, 2.0])[: len(documents)]
    x = torch.randint(size, documents.shape, generator=torch.Generator().manual_seed(1))
    mask = documents > 0
    packed = model(x, level, mask=mask, documents=documents)
    for row, where in pieces(documents):
        alone = model(x[row, where][None], level[row : row + 1])[0]
        torch.testing.assert_close(packed[row, where], alone, atol=EXACT[dtype], rtol=0)
    own = documents == 2
    changed = torch.where(own, x, (x + 1) % size)
    assert torch.equal(model(changed, level, mask=mask, documents=documents)[own], packed[own])
    assert not torch.allclose(model(x, level, mask=mask)[own], packed[own], atol=1e-6)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_packed_document_is_denoised_as_alone(backbone: str, dtype: torch.dtype) -> None:
    assert_denoised_as_alone(denoiser(BACKBONES[backbone], time_conditioning=True).network, dtype, VOCAB)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra", "GPT2", "Llama", "Qwen3", "GPTNeoX"])
def test_pretrained_models_isolate_documents(family: str, tmp_path: Path) -> None:
    hugging_face.pretrained(family, tmp_path)
    model = hugging_face.build(tmp_path, time_conditioning=True)
    documents = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 3], [5, 2, 2, 2, 2, 2, 0, 0]])
    assert_denoised_as_alone(model.network, torch.float64, hugging_face.TOKENS, documents)


def test_a_pretrained_model_that_cannot_isolate_documents_is_refused(tmp_path: Path) -> None:
    hugging_face.pretrained("ModernBert", tmp_path)
    model = hugging_face.build(tmp_path)
    with pytest.raises(PretrainedError, match=r"cannot isolate the documents of packed rows \(its local attention"):
        model(hugging_face.tokens(), documents=torch.ones(2, 8, dtype=torch.long))


def test_a_network_without_documents_is_refused() -> None:
    model = build()
    model.call.accepted.discard("documents")
    with pytest.raises(DenoiserCallError, match="documents was given"):
        model(torch.zeros(2, LENGTH, dtype=torch.long), documents=torch.ones(2, LENGTH, dtype=torch.long))


# Bounds: the bound of a packed row is the sum over its documents at its noise level.


PACKED = torch.tensor([[1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4], [1] * 6 + [2] * 5 + [0] * 3])


class Noised:
    """A process with given noisy tokens."""

    def __init__(self, process: Any) -> None:
        self.process = process

    def corrupt(self, *_: Any) -> Tensor:
        return self.noisy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)


def assert_bound_is_a_sum(model: DiffusionModel) -> None:
    """Compare the bound of packed rows with that of each document alone, with the same times and noisy tokens."""
    model = model.double()
    process: Any = Noised(model.process)
    model.objective.process = process
    x = torch.randint(7, PACKED.shape, generator=torch.Generator().manual_seed(2))
    mask, generators = PACKED > 0, RowGenerators.from_seed(3, torch.arange(2))
    t = model.times(torch.tensor([0.4, 0.9], dtype=torch.float64), x, PACKED)
    noisy = process.noisy = model.process.corrupt(x, t, generators, ~mask)

    def parts(x: Tensor, t: Tensor, **more: Tensor) -> Tensor:
        frozen = ~more["mask"] if more else None
        denoise = model.objective.parts(lambda *noised: model.denoise(*noised, **more), x, t, generators, frozen)
        return denoise.total

    packed = parts(x, t, mask=mask, documents=PACKED)
    for row, where in pieces(PACKED):
        process.noisy = noisy[row, where][None]
        times = t[row : row + 1] if t.dim() == 1 else t[row, where][None]
        alone = parts(x[row, where][None], times)[0]
        torch.testing.assert_close(packed[row, where], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("process", "objective"), [("absorbing", "mdlm"), ("absorbing", "sedd"), ("uniform", "udlm"), ("hybrid", "gidd")]
)
@pytest.mark.parametrize("backbone", ["ddit", "performer linear"])
def test_the_bound_of_a_packed_row_is_the_sum_over_its_documents(process: str, objective: str, backbone: str) -> None:
    parts = {"process": process, "objective": objective, "vocab_size": 7, "length": 14}
    model = denoiser(BACKBONES[backbone], **parts)
    assert_bound_is_a_sum(model)


@pytest.mark.parametrize("block_size", [1, 2, 4, 14])
def test_blocks_begin_with_each_document(block_size: int) -> None:
    model = build_blocks(block_size)
    t = model.times(torch.tensor([0.4, 0.9], dtype=torch.float64), PACKED, PACKED)
    for row, where in pieces(PACKED):
        own = t[row, where]
        assert [len(set(part.tolist())) for part in own.split(block_size)] == [1] * -(-len(own) // block_size)
    assert_bound_is_a_sum(model)
