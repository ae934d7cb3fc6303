"""LLaDA, Dream and SDAR, imported: equal to transformers' Llama, Qwen2 and Qwen3 with the published attention and shift."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.errors import PublishedError
from model.denoisers.blocks import Blocks
from model_factory.cli.main import main
from model_factory.training.run.folder import load_run
from tests.interop.pretrained import ROWS, SIZES
from tests.interop.published import run_import
from tests.interop.test_imported_run import write_tokenizer
from tests.real_data import real_data

MASK, BLOCK = 12, 4
IDS = torch.randint(ROWS, (2, 8), generator=torch.Generator().manual_seed(2))
QWEN = {**SIZES, "rope_theta": 1e6, "mask_token_id": MASK, "hidden_act": "silu"}
CONFIGS: dict[str, dict[str, Any]] = {
    "llada": {
        "model_type": "llada",
        "d_model": 16,
        "n_heads": 2,
        "n_kv_heads": 1,
        "n_layers": 2,
        "mlp_hidden_size": 20,
        "vocab_size": ROWS,
        "embedding_size": ROWS,
        "max_sequence_length": 16,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 5e5,
        "block_type": "llama",
        "weight_tying": False,
        "mask_token_id": MASK,
    },
    "dream": {"model_type": "Dream", **QWEN},
    "sdar": {"model_type": "sdar", **QWEN, "head_dim": 12, "block_size": BLOCK, "attention_bias": False},
    "a2d": {"model_type": "a2d-qwen3", **QWEN, "head_dim": 12},
    "a2d-qwen2": {"model_type": "a2d-qwen2", **QWEN},
    "a2d-llama": {"model_type": "a2d-llama", **QWEN},
}
CLASSES = {
    "llada": "Llama",
    "dream": "Qwen2",
    "sdar": "Qwen3",
    "a2d": "Qwen3",
    "a2d-qwen2": "Qwen2",
    "a2d-llama": "Llama",
}
LLADA = {
    "model.embed_tokens": "wte",
    "model.norm": "ln_f",
    "lm_head": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.o_proj": "attn_out",
    "self_attn.": "",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "model.layers": "blocks",
}
"""Part of a name in Llama, and in LLaDA."""


def published_name(family: str, name: str) -> str:
    if family != "llada":
        return name
    for ours, theirs in LLADA.items():
        name = name.replace(ours, theirs)
    return f"model.transformer.{name}"


def original(family: str) -> Any:
    """Return transformers' own model of a family with random weights, biases included."""
    torch.manual_seed(0)
    more = {"head_dim": 12} if CLASSES[family] == "Qwen3" else {}
    theta = {"rope_type": "default", "rope_theta": 5e5 if family == "llada" else 1e6}
    config = getattr(transformers, f"{CLASSES[family]}Config")(**SIZES, **more, rope_parameters=theta, is_causal=False)
    model = getattr(transformers, f"{CLASSES[family]}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    return model


def write(folder: Path, family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Write the folder of a family with the weights of `original`; return it."""
    model = original(family)
    folder.mkdir()
    config = {key: value for key, value in {**CONFIGS[family], **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {published_name(family, name): x.to(dtype).contiguous() for name, x in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    return model


@torch.no_grad()
def expected(family: str, model: Any, ids: Tensor) -> Tensor:
    """Return the logits of a published family: attention to all tokens or to blocks, shifted for Dream."""
    length = ids.shape[1]
    block = torch.arange(length) // BLOCK
    seen = block[:, None] >= block[None] if family == "sdar" else torch.ones(length, length, dtype=torch.bool)
    hidden = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits: Tensor = model(ids, attention_mask=hidden).logits
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if family == "dream" else logits


@torch.no_grad()
def outputs(family: str, run: Path, ids: Tensor) -> Tensor:
    """Return our logits, without the state of the mask."""
    model: Any = load_run(run, device="cpu").model
    states = ids.masked_fill(ids == MASK, ROWS)
    if family != "sdar":
        return model.denoise(states, None)[..., :ROWS]  # type: ignore[no-any-return]
    block = torch.arange(ids.shape[1]) // BLOCK
    found: Tensor = model.network(states, blocks=Blocks(torch.arange(len(block)), block[:, None] >= block[None]))
    return found[..., :ROWS]


def gap(found: Tensor, wanted: Tensor, mask: int = MASK) -> float:
    """Return the largest difference of logits but the mask's, which has no probability here."""
    kept = [token for token in range(found.shape[-1]) if token != mask]
    return (found - wanted)[..., kept].abs().max().item()


@pytest.mark.parametrize("family", CONFIGS)
def test_import_of_language_models_equals_transformers(tmp_path: Path, family: str) -> None:
    model = write(tmp_path / "source", family)
    run_import(tmp_path / "source", tmp_path / "run")
    shutil.rmtree(tmp_path / "source")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    found = outputs(family, tmp_path / "moved", IDS)
    assert gap(found, expected(family, model, IDS)) < 1e-6
    assert (found[..., MASK] == torch.finfo(torch.float32).min).all()


@pytest.mark.parametrize(("family", "key"), [("llada", "weight_tying"), ("a2d-qwen2", "tie_word_embeddings")])
def test_tied_table_is_the_head(tmp_path: Path, family: str, key: str) -> None:
    model = write(tmp_path / "source", family, **{key: True})
    path = tmp_path / "source/model.safetensors"
    tensors = load_file(path)
    save_file({name: x for name, x in tensors.items() if published_name(family, "lm_head.weight") != name}, path)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    run_import(tmp_path / "source", tmp_path / "run")
    assert gap(outputs(family, tmp_path / "run", IDS), expected(family, model, IDS)) < 1e-6


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
@torch.no_grad()
def test_import_of_language_models_gives_published_outputs(tmp_path: Path, family: str) -> None:
    source = real_data("published") / family
    tensors = load_file(source / "expected.safetensors")
    run_import(source, tmp_path / "run")
    ids, wanted = tensors["input_ids"], tensors["logits"]
    network: Any = load_run(tmp_path / "run", device="cpu").model.network
    block = torch.arange(ids.shape[1]) // BLOCK
    blocks = Blocks(torch.arange(len(block)), block[:, None] >= block[None]) if family == "sdar" else None
    found = network(ids.masked_fill(ids == 66, 67), blocks=blocks)[..., :67]
    if family == "dream":  # its outputs are saved before the shift
        wanted = torch.cat([wanted[:, :1], wanted[:, :-1]], 1)
    assert gap(found, wanted, 66) < 1e-6


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llada", {"rope_theta": 1e4}),
        ("llada", {"rms_norm_eps": 0.5}),
        ("llada", {"mask_token_id": MASK - 1}),
        ("dream", {"rope_theta": 1e4}),
        ("sdar", {"block_size": 2}),
    ],
)
def test_wrong_settings_change_outputs(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    model = write(tmp_path / "source", family, **changes)
    run_import(tmp_path / "source", tmp_path / "run")
    if "block_size" in changes:
        assert load_run(tmp_path / "run", device="cpu").model.block_size == 2
        return
    found = outputs(family, tmp_path / "run", IDS)
    assert gap(found, expected(family, model, IDS)) > 1e-3


@pytest.mark.parametrize("swap", [("ff_proj", "up_proj"), ("q_proj", "attn_out")])
def test_swapped_tensors_change_outputs(tmp_path: Path, swap: tuple[str, str]) -> None:
    model = write(tmp_path / "source", "llada")
    path = tmp_path / "source/model.safetensors"
    first, second = swap
    tensors = load_file(path)
    names = {name: name.replace(first, "#").replace(second, first).replace("#", second) for name in tensors}
    save_file({names[name]: tensor for name, tensor in tensors.items()}, path)
    run_import(tmp_path / "source", tmp_path / "run")
    assert gap(outputs("llada", tmp_path / "run", IDS), expected("llada", model, IDS)) > 1e-3


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llada", {"include_bias": True}, "include_bias is True, and False is read"),
        ("llada", {"mlp_hidden_size": 18}, "its tensors are not those of its config: of another shape"),
        ("llada", {"n_layers": 3}, "missing: model.layers.2.self_attn.q_proj.weight"),
        ("llada", {"n_layers": 1}, "not known: model.transformer.blocks.1"),
        ("llada", {"n_layers": 10**9}, "has 1,000,000,000 layers"),
        ("llada", {"mask_token_id": None}, "name the mask: --mask-id N"),
        ("llada", {"mask_token_id": ROWS}, "the mask is token 13, and the vocabulary has 13"),
        ("llada", {"rope_theta": None}, "rope_theta is None; expected a number"),
        ("dream", {"use_sliding_window": True}, "sliding windows"),
        ("dream", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling is 'yarn'"),
        ("dream", {"model_type": "sdar", "head_dim": 8, "block_size": 4}, "missing: model.layers.0.self_attn.q_norm"),
        ("sdar", {"block_size": None}, "lacks block_size"),
        ("sdar", {"model_type": "sdar_moe"}, "norm_topk_prob is None; expected true or false"),
    ],
)
def test_language_models_that_do_not_fit_are_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path / "source", family, **changes)
    with pytest.raises(PublishedError, match=message):
        run_import(tmp_path / "source", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mask_of_a_language_model_is_the_tokenizers(tmp_path: Path) -> None:
    write(tmp_path / "source", "a2d", mask_token_id=None)
    words = ["</s>", *"abcdefghijk"]
    write_tokenizer(tmp_path / "source/words", words=words, mask_token="[MASK]")
    found = run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(tmp_path / "source/words"))
    assert dict(found.facts)["mask"] == f"token {MASK}"


def test_dropped_biases_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "source", "dream")
    path = tmp_path / "source/model.safetensors"
    save_file({name: x for name, x in load_file(path).items() if not name.endswith("bias")}, path)
    with pytest.raises(PublishedError, match=r"missing: model.layers.0.self_attn.q_proj.bias"):
        run_import(tmp_path / "source", tmp_path / "run")


@pytest.mark.parametrize("family", CONFIGS)
def test_imported_language_model_generates_and_is_evaluated(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "source", family, torch.bfloat16 if family == "llada" else torch.float32)
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(write_tokenizer(tmp_path / "words")))
    if family == "llada":
        assert {x.dtype for x in load_run(tmp_path / "run").model.parameters()} == {torch.bfloat16}
    (tmp_path / "text.txt").write_text("a b c d e f g h i\n" * 20)
    words = ["--run", str(tmp_path / "run"), "--device", "cpu", "--num-samples", "1"]
    assert main(["generate", *words, "--length", "8", "--steps", "4", "--prompt", "a b c d"]) == 0
    assert "a b c d" in capsys.readouterr().out
    words = [
        "--run",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--data",
        str(tmp_path / "text.txt"),
        "--num-samples",
        "0",
    ]
    assert main(["evaluate", *words]) == 0


@pytest.mark.parametrize("family", ["dream", "sdar"])
def test_imported_language_model_is_adapted(tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    write(tmp_path / "source", family)
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(write_tokenizer(tmp_path / "words")))
    (tmp_path / "text.txt").write_text("a b c d e f g h i\n" * 20)
    file = tmp_path / "tune.yml"
    file.write_text(f"""\
model: {{model_type: diffusion, pretrained: {tmp_path}/run}}
global_config: {{output_dir: {tmp_path}/prepared}}
datasets:
  - {{name: a, source: text, data_files: {{train: {tmp_path}/text.txt}}, tokenizer: {{run: {tmp_path}/run}}, sequence_length: 8, rows: packed}}
training: {{max_steps: 1, batch_size: 2, lora: {{r: 2, target_modules: [q_proj, up_proj]}}}}
""")
    words = ["train", "--config", str(file), "--output", str(tmp_path / "tuned"), "--set", "model.backbone.device=cpu"]
    assert main([*words, "--set", "training.lora.target_modules=[q_project]"]) == 1
    assert f"no linear layer of {tmp_path}/run is called q_project; it has down_proj" in capsys.readouterr().err
    assert main(words) == 0
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "tuned"))
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "up_proj"}
