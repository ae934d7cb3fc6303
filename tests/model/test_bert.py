"""BERT conditioned on the time: pretrained weights, interface, time injection, and BERT as a backbone."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertModel, BertPreTrainedModel, PreTrainedTokenizerFast

from model.bert_diffusion_model import BertDiffusionModel
from model.bert_factory import build_medium_bert_diffusion_model
from model.discrete.model import DiffusionModel
from model.hub import HubError
from model.model_factory import create_model, load_model
from tests.model.test_diffusion_model import LENGTH, VOCAB, read, section
from tests.model.tiny import refuse_to_retry

HIDDEN, TOKENS = 32, 20
INJECTIONS = ["output", "input", "adaln"]
SMALL: dict[str, Any] = {"type": "bert", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
MOLECULES = ["CCO", "c1ccccc1", "CC(=O)O", "CN1CCC[C@H]1c2cccnc2", "C#N", "ClCCl", "OCC(O)CO", "CC(C)Cc1ccc(cc1)C(C)C"]


def bert_config(**changes: Any) -> BertConfig:
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return BertConfig(**{"vocab_size": TOKENS, "max_position_embeddings": 24, **sizes, **changes})


def tokens(rows: int = 2, length: int = 6) -> Tensor:
    return torch.randint(TOKENS, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def molecules() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.train_from_iterator(
        MOLECULES, trainers.BpeTrainer(vocab_size=60, special_tokens=["[PAD]", "[UNK]", "[MASK]"])
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", model_max_length=512
    )


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_bert_loads_pretrained_weights_unchanged(kind: Any, injection: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = kind(bert_config()).eval()
    saved.save_pretrained(tmp_path)
    bert = saved if kind is BertModel else saved.bert
    model = BertDiffusionModel.from_pretrained(tmp_path, time_injection=injection)
    assert model.config.time_injection == injection
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    wanted = bert(tokens(), attention_mask=mask).last_hidden_state
    assert torch.equal(model(tokens(), mask).last_hidden_state, wanted)
    own = dict(model.named_parameters())
    assert all(torch.equal(own[f"bert.{name}"], weight) for name, weight in bert.named_parameters())
    at = model(tokens(), mask, timestep_embeds=torch.randn(2, HIDDEN)).last_hidden_state
    assert torch.equal(at, wanted) is (injection == "adaln")  # the modulation starts at zero


def test_bert_adds_the_time_to_the_output_by_default() -> None:
    model = BertDiffusionModel(bert_config()).eval()
    time_emb = torch.randn(2, HIDDEN)
    plain, timed = model(tokens()), model(tokens(), timestep_embeds=time_emb)
    assert torch.equal(timed.last_hidden_state, plain.last_hidden_state + time_emb[:, None])
    assert torch.equal(timed.pooler_output, plain.pooler_output)
    assert isinstance(model, BertPreTrainedModel)
    embeddings = model.get_embedding_layer()
    names = ["word_embeddings", "position_embeddings", "token_type_embeddings"]
    assert all(isinstance(getattr(embeddings, name), torch.nn.Embedding) for name in names)


def with_modulation(injection: str) -> BertDiffusionModel:
    """Build a model with a nonzero modulation."""
    torch.manual_seed(1)
    model = BertDiffusionModel(bert_config(), time_injection=injection).eval()
    for name, parameter in model.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("injection", INJECTIONS)
def test_bert_attention_depends_on_injected_time(injection: str) -> None:
    model = with_modulation(injection)
    early, late = (
        model(tokens(), timestep_embeds=time_emb, output_attentions=True).attentions
        for time_emb in (torch.zeros(2, HIDDEN), torch.ones(2, HIDDEN).cumsum(-1))
    )
    same = [torch.equal(*pair) for pair in zip(early, late, strict=True)]
    assert same == [injection == "output"] * 2


@pytest.mark.parametrize("injection", INJECTIONS)
def test_bert_outputs_and_save_round_trip(injection: str, tmp_path: Path) -> None:
    model = with_modulation(injection)
    time_emb = torch.randn(2, 6, HIDDEN)  # a time for each token
    whole = model(tokens(), timestep_embeds=time_emb, output_attentions=True, output_hidden_states=True)
    assert [len(whole.hidden_states), len(whole.attentions)] == [3, 2]
    assert whole.attentions[0].shape == (2, 2, 6, 6)
    states = model(tokens(), timestep_embeds=time_emb, return_dict=False)
    assert isinstance(states, tuple)
    assert [tuple(state.shape) for state in states] == [(2, 6, HIDDEN), (2, HIDDEN)]
    embedded = model.get_embedding_layer().word_embeddings(tokens())
    again = model(inputs_embeds=embedded, timestep_embeds=time_emb).last_hidden_state
    assert torch.equal(again, states[0])
    model.save_pretrained(tmp_path)
    loaded = BertDiffusionModel.from_pretrained(tmp_path)
    assert loaded.config.time_injection == injection
    assert torch.equal(loaded(tokens(), timestep_embeds=time_emb).last_hidden_state, states[0])


def test_bert_gradients_with_activation_checkpointing() -> None:
    model = with_modulation("adaln").train()
    model.activation_checkpointing_enable()
    output = model(tokens(), timestep_embeds=model.embed_timesteps(torch.tensor([0, 100])))
    (output.last_hidden_state.square().mean() + output.pooler_output.mean()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: BertDiffusionModel(bert_config(), time_injection="early"),
            "must be one of output, input, adaln; got 'early'",
        ),
        (lambda: BertDiffusionModel(bert_config(is_decoder=True)), "a causal BERT cannot denoise"),
        (lambda: BertDiffusionModel(bert_config())(tokens(), timestep_embeds=torch.zeros(2, 5)), r"\[B, 32\]"),
        (lambda: build_medium_bert_diffusion_model(["a"], diffusion_steps=0), "must be at least 1; got 0"),
    ],
)
def test_bert_invalid_arguments_are_named(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_medium_bert_fits_a_real_tokenizer(molecules: PreTrainedTokenizerFast) -> None:
    model, tokenizer = build_medium_bert_diffusion_model(molecules, diffusion_steps=50)
    assert tokenizer is molecules
    assert (model.config.vocab_size, model.config.pad_token_id) == (len(molecules), molecules.pad_token_id)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.num_attention_heads) == (512, 6, 8)
    assert (model.config.intermediate_size, model.config.max_position_embeddings) == (2048, 512)
    batch = tokenizer(MOLECULES[:3], padding=True, return_tensors="pt")
    time_emb = model.embed_timesteps(torch.tensor([0, 25, 50]))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    output = model.eval()(input_ids=ids, attention_mask=mask, timestep_embeds=time_emb)
    assert output.last_hidden_state.shape == (*ids.shape, 512)
    assert torch.isfinite(output.last_hidden_state).all()


def test_medium_bert_fits_the_smiles_tokenizer() -> None:
    from data_manager.tokenizers.smiles import SmilesTokenizer

    model, tokenizer = build_medium_bert_diffusion_model(SmilesTokenizer.of(MOLECULES))
    ids = torch.tensor([tokenizer.encode(MOLECULES[3])])
    assert model.config.vocab_size == tokenizer.vocab_size > int(ids.max())
    assert model(ids).last_hidden_state.shape == (*ids.shape, 512)


def test_medium_bert_offline_asks_for_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", refuse_to_retry)
    with pytest.raises(HubError, match=r"ChemBERTa-zinc-base-v1.*pass a tokenizer"):
        build_medium_bert_diffusion_model()


def test_bert_import_paths_and_lazy_torch() -> None:
    code = "import sys, model; print('torch' in sys.modules)\n" + "\n".join(
        f"from {place} import BertDiffusionModel as {alias}, build_medium_bert_diffusion_model as build_{alias}"
        for place, alias in [("model", "a"), ("model.bert_diffusion_model", "b"), ("model.bert_factory", "c")]
    )
    code += "\nprint(a is b is c, build_a is build_b is build_c)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


def build(backbone: dict[str, Any], **more: Any) -> DiffusionModel:
    torch.manual_seed(0)
    config, problems = read(section(backbone={**SMALL, **backbone}, **more))
    assert problems == []
    model = create_model(config)
    assert isinstance(model, DiffusionModel)
    return model


@pytest.mark.parametrize("position", ["rotary", "absolute"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("injection", INJECTIONS)
def test_bert_backbone_trains_samples_and_reloads(injection: str, tied: bool, position: str, tmp_path: Path) -> None:
    backbone = {"time_injection": injection, "tie_embeddings": tied, "position": position}
    model = build(backbone, objective="sedd", condition={"type": "class", "num_classes": 2})
    data, cond = torch.randint(VOCAB, (2, LENGTH)), torch.tensor([0, 1])
    model(data, torch.arange(LENGTH) < torch.tensor([[LENGTH], [5]]), cond=cond).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.sample(2, steps=3, cond=cond, guidance=2.0).shape == (2, LENGTH)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    again, sigma = load_model(tmp_path).eval(), torch.ones(2, LENGTH)
    assert torch.equal(again.denoise(data, sigma, cond=cond), model.eval().denoise(data, sigma, cond=cond))  # type: ignore[operator]


def with_random_parameters(backbone: dict[str, Any], **more: Any) -> DiffusionModel:
    """Build a backbone whose head and modulation are nonzero."""
    model = build(backbone, **more).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("injection", INJECTIONS)
def test_backbone_attends_both_ways_and_ignores_padding(injection: str) -> None:
    model = with_random_parameters({"time_injection": injection}, objective="sedd").double()
    x_t, sigma = torch.randint(VOCAB, (1, LENGTH)), torch.ones(1)
    mask = torch.arange(LENGTH)[None] < 6
    changed = x_t.clone()
    changed[0, 5] = (changed[0, 5] + 1) % VOCAB
    padded = torch.where(mask, x_t, (x_t + 1) % VOCAB)
    usual = model.denoise(x_t, sigma, mask=mask)
    assert ((usual - model.denoise(changed, sigma, mask=mask)).abs().amax(-1)[0, :6] > 1e-6).all()
    torch.testing.assert_close(usual[:, :6], model.denoise(padded, sigma, mask=mask)[:, :6])
    torch.testing.assert_close(usual[:, :6], model.denoise(x_t[:, :6], sigma))
    assert torch.isfinite(model.denoise(x_t, sigma, mask=torch.zeros_like(mask))).all()


def test_bert_learns_to_count() -> None:
    """Sequences that count up modulo 5: an untrained network has a loss of log 5 = 1.61, a perfect one of 0.20."""
    model = build({"hidden_size": 32, "time_injection": "adaln"}, time_conditioning=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model((torch.randint(VOCAB, (32, 1)) + torch.arange(LENGTH)) % VOCAB).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    rows = ((torch.arange(VOCAB)[:, None] + torch.arange(LENGTH)) % VOCAB).repeat(20, 1)
    with torch.no_grad():
        assert sum(float(model.eval()(rows, seed=seed).loss) for seed in range(8)) / 8 < 0.6


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ({"num_heads": 3}, "num_heads 3 does not divide hidden_size 16"),
        ({"num_heads": 16}, "even widths that rotary positions need"),
        ({"time_injection": "late"}, "must be one of adaln, input, output"),
        ({"hidden": 16}, "unknown key 'hidden'"),
    ],
)
def test_bert_backbone_section_is_checked(backbone: dict[str, Any], words: str) -> None:
    _, problems = read(section(backbone={**SMALL, **backbone}))
    assert len(problems) == 1
    assert words in problems[0]


def test_bert_rejects_sequences_beyond_max_length() -> None:
    with pytest.raises(ValueError, match=r"set backbone\.max_length: 8"):
        build({"max_length": 4})
    with pytest.raises(ValueError, match=r"has 8 positions \(max_length\)"):
        build({"max_length": LENGTH}).sample(1, length=LENGTH + 1, steps=1)
