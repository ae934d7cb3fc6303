"""Pretrained language models as denoisers: at the start only their attention mask differs from the original."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from model.denoisers.pretrained import PretrainedError
from model.discrete.model import DiffusionModel
from model.hub import HubError
from model.model_factory import create_model, load_model
from model_factory.experiment.build import build_and_run
from model_factory.experiment.config import read_experiment
from model_factory.yaml_config.dump import dump
from tests.model.test_diffusion_model import read, section
from tests.model.tiny import refuse_to_retry

TOKENS, LONG = 30, 8
SIZES: dict[str, Any] = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
MASKED = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "DistilBert": {**SIZES, **DISTILBERT},
    "Electra": {**SIZES, "embedding_size": 16},
    "ModernBert": {**SIZES, "cls_token_id": 1, "sep_token_id": 2},
}
CAUSAL = {
    "GPT2": {**SIZES, **GPT2},
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": {**GROUPED, "head_dim": 16},
    "GPTNeoX": SIZES,
    "Mistral": {**GROUPED, "sliding_window": None},
}


def pretrained(family: str, folder: Path) -> Any:
    """Save a tiny model of a family into a folder and return it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**MASKED, **CAUSAL}[family])
    head = "ForMaskedLM" if family in MASKED else "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{family}{head}")(config).eval()
    model.save_pretrained(folder)
    return model


def build(folder: Path | str, more: dict[str, Any] | None = None, **parts: Any) -> DiffusionModel:
    backbone = {"type": "hugging_face", "path": str(folder), **(more or {})}
    config, problems = read(section(backbone=backbone, **{"vocab_size": TOKENS, **parts}))
    assert problems == []
    model = create_model(config)
    assert isinstance(model, DiffusionModel)
    return model.eval()


def tokens(rows: int = 2) -> Tensor:
    return torch.randint(3, TOKENS, (rows, LONG), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", [*MASKED, *CAUSAL])
def test_hf_denoiser_starts_as_the_pretrained_model(family: str, tmp_path: Path) -> None:
    original = pretrained(family, tmp_path)
    network: Any = build(tmp_path).network
    assert network.shifted is (family in CAUSAL)
    weights, own = original.state_dict(), network.model.state_dict()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in weights)
    if family in MASKED:
        assert torch.equal(network(tokens())[..., :TOKENS], original(tokens()).logits)
        return
    x = network.model.get_input_embeddings()(tokens())
    causal = torch.full((LONG, LONG), torch.finfo(torch.float32).min).triu(1)[None, None]
    wanted = original(tokens()).logits
    torch.testing.assert_close(network.model(inputs_embeds=x, attention_mask=causal).logits, wanted)
    both = network.model(inputs_embeds=x, attention_mask=torch.zeros(1, 1, LONG, LONG)).logits
    assert torch.equal(network(tokens())[:, 1:, :TOKENS], both[:, :-1])  # shifted by one
    assert not torch.allclose(both[:, :-1], wanted[:, :-1], atol=1e-4)


@pytest.mark.parametrize("family", [*MASKED, *CAUSAL])
def test_hf_denoiser_attends_to_all_tokens_but_padding(family: str, tmp_path: Path) -> None:
    pretrained(family, tmp_path)
    network = build(tmp_path).network.double()
    mask = torch.arange(LONG)[None].expand(2, -1) < 6
    usual = network(tokens(), mask=mask)
    changed = tokens()
    changed[:, 5] = (changed[:, 5] + 1) % TOKENS
    moved = (usual - network(changed, mask=mask)).abs().amax(-1)[:, :6]
    assert (moved > 1e-9).all()
    padded = torch.where(mask, tokens(), 3)
    torch.testing.assert_close(usual[:, :6], network(padded, mask=mask)[:, :6])
    torch.testing.assert_close(usual[:, :6], network(tokens()[:, :6]))
    assert torch.isfinite(network(tokens(), mask=torch.zeros_like(mask))).all()


@pytest.mark.parametrize("family", ["Bert", "GPT2", "Llama"])
def test_hf_denoiser_trains_samples_and_reloads(family: str, tmp_path: Path) -> None:
    pretrained(family, tmp_path / "pretrained")
    model = build(tmp_path / "pretrained", condition={"type": "class", "num_classes": 2}, time_conditioning=True)
    cond = torch.tensor([0, 1])
    model.train()(tokens(), cond=cond).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert model.sample(2, steps=2, cond=cond).max() < TOKENS
    model.eval().save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    again: Any = load_model(tmp_path / "saved").eval()
    x_t, sigma = torch.full((2, LONG), TOKENS), torch.ones(2)
    assert torch.equal(again.denoise(x_t, sigma, cond=cond), model.denoise(x_t, sigma, cond=cond))


@pytest.mark.parametrize("family", ["Bert", "GPT2", "Llama"])
def test_hf_denoiser_reads_which_tokens_are_given(family: str, tmp_path: Path) -> None:
    pretrained(family, tmp_path)
    model = build(tmp_path, process="uniform", objective="udlm")
    network: Any = model.network
    torch.nn.init.normal_(network.told.noise.net[-1].weight, std=0.3)
    given, rows = (torch.arange(LONG) < 3).expand(2, -1), torch.ones(2)
    plain = model.denoise(tokens(), rows)
    torch.testing.assert_close(model.denoise(tokens(), rows[:, None].expand(2, LONG)), plain)
    told = model.denoise(tokens(), torch.where(given, 0.0, 1.0))
    assert ((plain - told).abs().amax(-1)[~given] > 1e-4).all()
    output = model.train()(tokens(), response_mask=~given)
    output.loss.backward()
    prompt = tokens()[:, :3]
    assert torch.equal(model.sample(2, steps=2, prompt=prompt)[:, :3], prompt)


@pytest.mark.parametrize("kind", ["class", "properties"])
def test_hf_denoiser_conditioning_starts_at_zero_and_is_learnt(kind: str, tmp_path: Path) -> None:
    pretrained("Llama", tmp_path)
    size = {"num_classes": 2} if kind == "class" else {"size": 3}
    model = build(tmp_path, objective="sedd", condition={"type": kind, **size})
    cond = torch.tensor([0, 1]) if kind == "class" else torch.randn(2, 3)
    unconditional, conditional = (build(tmp_path).network, model.network)
    assert torch.equal(conditional(tokens(), torch.ones(2), cond=cond), unconditional(tokens()))
    conditional(tokens(), torch.ones(2), cond=cond)[..., :TOKENS].square().mean().backward()
    cond_emb: Any = conditional.told
    assert float(cond_emb.noise.net[-1].weight.grad.abs().max()) > 0


@pytest.mark.parametrize("with_mask", [True, False])
def test_hf_denoiser_mask_embedding_initialisation(with_mask: bool, tmp_path: Path) -> None:
    original = pretrained("Bert", tmp_path)
    inner = Tokenizer(models.WordLevel({f"t{i}": i for i in range(TOKENS)}, unk_token="t0"))
    special = {"mask_token": "t4"} if with_mask else {}
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="t0", **special).save_pretrained(tmp_path)
    network: Any = build(tmp_path).network
    table = original.get_input_embeddings().weight
    torch.testing.assert_close(network.mask_embedding, table[4] if with_mask else table.mean(0))
    replaced = tokens().masked_fill(torch.arange(LONG) == 2, TOKENS)
    assert not torch.equal(network(replaced), network(tokens()))


def test_hf_denoiser_has_no_mask_under_uniform_noise(tmp_path: Path) -> None:
    pretrained("GPT2", tmp_path)
    model = build(tmp_path, process="uniform", objective="udlm")
    assert model.network.mask_embedding is None
    assert model.denoise(tokens(), 0.5).shape == (2, LONG, TOKENS)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"vocab_size": TOKENS - 1}, f"set model.vocab_size: {TOKENS}, and use the pretrained model's tokenizer: {{"),
        ({"vocab_size": TOKENS + 1}, "; use the pretrained model's tokenizer: {type: hugging_face, path:"),
        ({"length": 33}, "has 32 positions, and sequences have 33 tokens; reduce length to 32"),
    ],
)
def test_hf_denoiser_refuses_other_sizes(parts: dict[str, Any], words: str, tmp_path: Path) -> None:
    pretrained("Bert", tmp_path)
    with pytest.raises(PretrainedError) as caught:
        build(tmp_path, **parts)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("Mamba", {"state_size": 4}), ("Rwkv", {"attention_hidden_size": 32, "context_length": 16}), ("T5", {})],
)
def test_hf_denoiser_refuses_causal_architectures(family: str, sizes: Any, tmp_path: Path) -> None:
    config = getattr(transformers, f"{family}Config")(vocab_size=TOKENS, hidden_size=32, num_hidden_layers=2, **sizes)
    config.save_pretrained(tmp_path)
    auto = transformers.AutoModelForCausalLM if family != "T5" else transformers.AutoModelForSeq2SeqLM
    if family != "T5":
        auto.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        PretrainedError, match=r"stays causal|cannot be called|transformers has no causal language model"
    ):
        build(tmp_path)


@torch.no_grad()
def test_hf_denoiser_without_shift_keeps_logits_at_their_positions(tmp_path: Path) -> None:
    pretrained("GPT2", tmp_path)
    shifted, plain = (build(tmp_path, {"shift": shift}).network(tokens()) for shift in (True, False))
    assert torch.equal(shifted[:, 1:, :TOKENS], plain[:, :-1, :TOKENS])


@torch.no_grad()
def test_hf_denoiser_takes_a_token_as_the_mask(tmp_path: Path) -> None:
    pretrained("Bert", tmp_path)
    plain, model = build(tmp_path), build(tmp_path, {"mask_token_id": 2})
    assert model.network.mask_embedding is None
    states = tokens().masked_fill(torch.arange(LONG) == 1, TOKENS)
    found = model.denoise(states, None)
    others = [token for token in range(TOKENS) if token != 2]
    wanted = plain.network(states.masked_fill(states == TOKENS, 2))
    assert torch.equal(found[..., others], wanted[..., others])
    assert bool((found[..., 2] == torch.finfo(torch.float32).min).all())


def test_hf_denoiser_refuses_masks_that_do_not_fit(tmp_path: Path) -> None:
    pretrained("Bert", tmp_path)
    with pytest.raises(PretrainedError, match=f"mask_token_id is {TOKENS}, and the vocabulary has {TOKENS} tokens"):
        build(tmp_path, {"mask_token_id": TOKENS})
    with pytest.raises(PretrainedError, match="the process has no mask; leave mask_token_id out"):
        build(tmp_path, {"mask_token_id": 2}, process="uniform", objective="udlm")


@torch.no_grad()
def test_hf_denoiser_in_bfloat16_takes_the_noise_level(tmp_path: Path) -> None:
    pretrained("Llama", tmp_path)
    model = build(tmp_path, {"dtype": "bfloat16"}, time_conditioning=True)
    assert next(model.network.model.parameters()).dtype == torch.bfloat16
    assert model.denoise(tokens(), 0.5).dtype == torch.bfloat16


@torch.no_grad()
def test_hf_denoiser_attends_by_blocks(tmp_path: Path) -> None:
    """A block of three tokens attends to itself and to the clean blocks before it."""
    pretrained("Llama", tmp_path)
    model = build(tmp_path, {"shift": False}, objective="bd3lm", length=LONG)
    clean, masked = tokens(), torch.full((2, LONG), TOKENS)
    first = model.denoise(torch.cat([masked, clean], 1), None)[:, :LONG]
    later = clean.clone()
    later[:, 6:] = 3
    second = model.denoise(torch.cat([masked, later], 1), None)[:, :LONG]
    torch.testing.assert_close(first, second)  # the last clean block is seen by nobody
    later[:, 0] = 3
    third = model.denoise(torch.cat([masked, later], 1), None)[:, :LONG]
    torch.testing.assert_close(first[:, :3], third[:, :3])
    assert not torch.allclose(first[:, 3:], third[:, 3:], atol=1e-4)
    drawn = model.sample(2, LONG, prompt=clean[:, :4], generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, :4], clean[:, :4])
    with pytest.raises(PretrainedError, match="blocks need logits at their own positions; set shift: false"):
        build(tmp_path, objective="bd3lm", length=LONG).denoise(torch.cat([masked, clean], 1), None)


def test_hf_denoiser_is_built_from_an_architecture() -> None:
    architecture = {"model_type": "llama", **GROUPED}
    backbone = {"type": "hugging_face", "architecture": architecture}
    config, problems = read(section(backbone=backbone, vocab_size=TOKENS))
    assert problems == []
    assert config is not None
    assert create_model(config).denoise(tokens(), None).shape == (2, LONG, TOKENS + 1)
    for wrong, words in (
        ({"path": "./x", **backbone}, "both path and architecture"),
        ({"type": "hugging_face"}, "neither path nor architecture"),
        ({"type": "hugging_face", "architecture": {"vocab_size": 3}}, "architecture has no model_type"),
    ):
        _, problems = read(section(backbone=wrong))
        assert any(words in problem for problem in problems), problems
    config, _ = read(
        section(backbone={"type": "hugging_face", "architecture": {"model_type": "lama"}}, vocab_size=TOKENS)
    )
    with pytest.raises(PretrainedError, match="architecture 'lama' is not valid"):
        create_model(config)


def test_hf_denoiser_path_without_model_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, words in [("none", "no such folder"), ("empty", "no config.json"), ("file", "is a file")]:
        _, problems = read(section(backbone={"type": "hugging_face", "path": str(tmp_path / name)}))
        assert len(problems) == 1
        assert "model.backbone.path" in problems[0]
        assert words in problems[0]


def test_hf_denoiser_missing_weights_fail_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers.BertConfig(**SIZES).save_pretrained(tmp_path)
    monkeypatch.setattr(time, "sleep", refuse_to_retry)
    with pytest.raises(HubError, match="cannot be loaded"):
        build(tmp_path)
    with pytest.raises(HubError, match=r"the hub cannot be reached.*give the path of a folder"):
        build("nobody/no-such-model")


@pytest.mark.parametrize(("family", "positions"), [("GPT2", 32), ("Roberta", 31), ("Llama", 32)])
def test_a_build_without_a_length_tries_as_many_tokens_as_there_are_positions(
    family: str, positions: int, tmp_path: Path
) -> None:
    pretrained(family, tmp_path)
    model = {
        **section(backbone={"type": "hugging_face", "path": str(tmp_path)}),
        "vocab_size": TOKENS,
        "name": "tiny",
        "length": None,
    }
    (tmp_path / "case.yml").write_text(dump({"model": model}))
    assert build_and_run(read_experiment(tmp_path / "case.yml").config).output_shape == [2, positions, TOKENS + 1]
