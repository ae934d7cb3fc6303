"""LLaDA2, SDAR-MoE, DiffuGPT and DiffuLLaMA, imported: equal to transformers' Glm4Moe, Qwen3Moe, GPT-2 and Llama.

Their tensors are renamed here.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.errors import PublishedError
from model.denoisers.blocks import Blocks
from model_factory.training.run.folder import load_run
from tests.interop.pretrained import ROWS, SIZES
from tests.interop.published import run_import

MASK, BLOCK, EXPERTS = 12, 4, 4
IDS = torch.randint(ROWS, (2, 8), generator=torch.Generator().manual_seed(3))
MOE = {
    **SIZES,
    "head_dim": 12,
    "moe_intermediate_size": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "use_qk_norm": True,
}
SPARSE = {
    **SIZES,
    "head_dim": 12,
    "moe_intermediate_size": 8,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "mlp_only_layers": [0],
}
BLOCKED = ("llada2_moe", "sdar_moe")
GPT2 = {"vocab_size": ROWS, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "layer_norm_epsilon": 1e-5}
CONFIGS: dict[str, dict[str, Any]] = {
    "llada2_moe": {
        "model_type": "llada2_moe",
        **MOE,
        "num_experts": EXPERTS,
        "num_shared_experts": 1,
        "partial_rotary_factor": 0.5,
        "rope_theta": 6e5,
        "score_function": "sigmoid",
        "use_sliding_window": False,
        "sliding_window": 4096,
        "block_size": BLOCK,
        "mask_token_id": MASK,
    },
    "sdar_moe": {"model_type": "sdar_moe", **SPARSE, "rope_theta": 1e6, "block_size": BLOCK, "mask_token_id": MASK},
    "diffugpt": {"model_type": "gpt2", **GPT2, "mask_token_id": MASK},
    "diffullama": {"model_type": "llama", **SIZES, "rope_theta": 1e4, "mask_token_id": MASK},
}


def original(family: str) -> Any:
    """Return transformers' own model of a family with random weights."""
    torch.manual_seed(0)
    config: Any
    if family == "diffugpt":
        config = transformers.GPT2Config(**GPT2, bos_token_id=None, eos_token_id=None)
        model: Any = transformers.GPT2LMHeadModel(config)
    elif family == "diffullama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    elif family == "sdar_moe":
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6}
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SPARSE, rope_parameters=rope))
    else:
        rope = {"rope_type": "default", "rope_theta": 6e5, "partial_rotary_factor": 0.5}
        counts = {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_mtp_layers": 0, "attention_bias": False}
        model = transformers.Glm4MoeForCausalLM(transformers.Glm4MoeConfig(**MOE, **counts, rope_parameters=rope))
    model.config.is_causal = False
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "inv_freq" not in name:
                tensor.copy_(0.3 * torch.randn(tensor.shape) + (tensor.dim() == 1))
    return model.eval()


def published_tensors(family: str, model: Any) -> dict[str, Tensor]:
    """Return the tensors of a model under the names of its family."""
    own = {name: x.detach() for name, x in model.state_dict().items() if "inv_freq" not in name}
    if family == "diffullama":
        return own
    if family == "diffugpt":
        found = {
            name.replace("transformer.", "denoise_model."): x for name, x in own.items() if name != "lm_head.weight"
        }
        found["embed_tokens.weight"] = found.pop("denoise_model.wte.weight")
        return {**found, "denoise_model.h.0.attn.bias": torch.ones(1, 1, 16, 16)}
    found = {}
    for name, x in own.items():
        before, _, last = name.partition("self_attn.")
        if family == "sdar_moe" and "experts" not in name:
            found[name] = x
        elif last == "q_proj.weight":
            rows = [own[f"{before}self_attn.{kind}_proj.weight"] for kind in "qkv"]
            found[f"{before}attention.query_key_value.weight"] = torch.cat(rows)
        elif last in ("k_proj.weight", "v_proj.weight"):
            continue
        elif last:
            names = {"o_proj": "dense", "q_norm": "query_layernorm", "k_norm": "key_layernorm"}
            found[f"{before}attention.{names[last.removesuffix('.weight')]}.weight"] = x
        elif name.endswith("experts.gate_up_proj"):
            for index, (gate, up) in enumerate(expert.chunk(2) for expert in x):
                found[name.replace("gate_up_proj", f"{index}.gate_proj.weight")] = gate
                found[name.replace("gate_up_proj", f"{index}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            found |= {name.replace("down_proj", f"{index}.down_proj.weight"): expert for index, expert in enumerate(x)}
        else:
            found[name.replace("embed_tokens", "word_embeddings").replace("e_score_correction", "expert")] = x
    return found


def write(folder: Path, family: str, **changes: Any) -> Any:
    """Write the folder of a family with the weights of `original`; return it. A change to None leaves a key out."""
    model = original(family)
    folder.mkdir()
    config = {key: value for key, value in {**CONFIGS[family], **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: x.clone().contiguous() for name, x in published_tensors(family, model).items()}
    save_file(tensors, folder / "model.safetensors")
    return model


def options(family: str) -> dict[str, Any]:
    return {"family": "diffullama"} if family == "diffullama" else {}


@torch.no_grad()
def expected(family: str, model: Any, *, seen: Tensor | None = None, shift: bool | None = None) -> Tensor:
    """Return the logits of a published family; `seen` and `shift` replace its attention and its shift."""
    block = torch.arange(IDS.shape[1]) // (BLOCK if family in BLOCKED else 100)
    seen = block[:, None] >= block[None] if seen is None else seen
    hidden = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits: Tensor = model(IDS, attention_mask=hidden).logits
    shift = family not in BLOCKED if shift is None else shift
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if shift else logits


@torch.no_grad()
def outputs(family: str, run: Path) -> Tensor:
    """Return our logits, without those of the mask."""
    model: Any = load_run(run, device="cpu").model
    block = torch.arange(IDS.shape[1]) // BLOCK
    blocks = Blocks(torch.arange(len(block)), block[:, None] >= block[None]) if family in BLOCKED else None
    found: Tensor = model.network(IDS.masked_fill(IDS == MASK, ROWS), blocks=blocks)
    return found[..., :MASK]


def gap(found: Tensor, wanted: Tensor) -> float:
    return (found - wanted[..., :MASK]).abs().max().item()


@pytest.mark.parametrize("family", CONFIGS)
def test_import_equals_transformers(tmp_path: Path, family: str) -> None:
    model = write(tmp_path / "source", family)
    found = run_import(tmp_path / "source", tmp_path / "run", **options(family))
    shutil.rmtree(tmp_path / "source")
    ours = outputs(family, tmp_path / "run")
    assert gap(ours, expected(family, model)) < 1e-6
    assert dict(found.facts)["family"].startswith(family)
    causal = torch.ones(8, 8, dtype=torch.bool).tril()
    assert gap(ours, expected(family, model, seen=causal)) > 1e-3
    assert gap(ours, expected(family, model, shift=family in BLOCKED)) > 1e-3


@pytest.mark.parametrize("family", CONFIGS)
def test_flipped_shift_of_a_run_changes_outputs(tmp_path: Path, family: str) -> None:
    write(tmp_path / "source", family)
    run_import(tmp_path / "source", tmp_path / "run", **options(family))
    right = outputs(family, tmp_path / "run")
    path = tmp_path / "run/config.yml"
    config = yaml.safe_load(path.read_text())
    config["model"]["backbone"]["shift"] ^= True
    if family in BLOCKED:
        config["model"]["objective"] = {"type": "mdlm"}
    path.write_text(yaml.safe_dump(config))
    if family in BLOCKED:
        with pytest.raises(ValueError, match="blocks need logits at their own positions"):
            outputs(family, tmp_path / "run")
        return
    assert (outputs(family, tmp_path / "run") - right).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 1e4},
        {"partial_rotary_factor": 1.0},
        {"routed_scaling_factor": 1.0},
        {"num_experts_per_tok": 1},
        {"norm_topk_prob": False},
        {"n_group": 1},
    ],
)
def test_other_settings_of_llada2_change_outputs(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = write(tmp_path / "source", "llada2_moe", **changes)
    run_import(tmp_path / "source", tmp_path / "run")
    assert gap(outputs("llada2_moe", tmp_path / "run"), expected("llada2_moe", model)) > 1e-4


@pytest.mark.parametrize(
    "changes",
    [{"rope_theta": 1e4}, {"num_experts_per_tok": 1}, {"norm_topk_prob": False}, {"rms_norm_eps": 0.5}],
)
def test_other_settings_of_sdar_moe_change_outputs(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = write(tmp_path / "source", "sdar_moe", **changes)
    run_import(tmp_path / "source", tmp_path / "run")
    assert gap(outputs("sdar_moe", tmp_path / "run"), expected("sdar_moe", model)) > 1e-3


@pytest.mark.parametrize("family", ["llada2_moe", "sdar_moe"])
def test_gates_for_values_of_experts_change_outputs(tmp_path: Path, family: str) -> None:
    model = write(tmp_path / "source", family)
    path = tmp_path / "source/model.safetensors"
    swapped = {
        name.replace("gate_proj", "#").replace("up_proj", "gate_proj").replace("#", "up_proj"): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(swapped, path)
    run_import(tmp_path / "source", tmp_path / "run")
    assert gap(outputs(family, tmp_path / "run"), expected(family, model)) > 1e-3


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("sdar_moe", {"num_experts": 5}, r"missing: model.layers.1.mlp.experts.4.gate_proj.weight"),
        ("sdar_moe", {"num_experts": 3}, r"not known: model.layers.1.mlp.experts.3"),
        ("sdar_moe", {"norm_topk_prob": None}, "norm_topk_prob is None; expected true or false"),
        ("sdar_moe", {"mlp_only_layers": "0"}, "mlp_only_layers is '0'; expected a list"),
        ("sdar_moe", {"mlp_only_layers": []}, "missing: model.layers.0.mlp.experts"),
        ("sdar_moe", {"block_size": None}, "lacks block_size"),
        ("llada2_moe", {"score_function": "softmax"}, "score_function is 'softmax', and 'sigmoid' is read"),
        ("llada2_moe", {"num_experts": 5}, r"missing: model.layers.1.mlp.experts.4.gate_proj.weight"),
        ("llada2_moe", {"num_experts": 3}, r"not known: model.layers.1.mlp.experts.3"),
        ("llada2_moe", {"num_key_value_heads": 2}, r"query_key_value.weight gives \[0, 16\] instead of \[24, 16\]"),
        ("llada2_moe", {"num_hidden_layers": 1}, "not known: model.layers.1.attention.dense.weight"),
        ("diffugpt", {"mask_token_id": None}, "name the mask: --mask-id N"),
        ("diffugpt", {"scale_attn_weights": False}, "scale_attn_weights is False, and True is read"),
        ("diffugpt", {"n_layer": 3}, "missing: transformer.h.2"),
        ("diffullama", {"attention_bias": True}, "attention_bias is true"),
    ],
)
def test_misfits_are_refused(tmp_path: Path, family: str, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "source", family, **changes)
    with pytest.raises(PublishedError, match=message):
        run_import(tmp_path / "source", tmp_path / "run", **options(family))
    assert not (tmp_path / "run").exists()


def test_plain_llama_is_no_diffusion_model_unless_named(tmp_path: Path) -> None:
    write(tmp_path / "source", "diffullama")
    with pytest.raises(
        PublishedError, match="if it is DiffuGPT or DiffuLLaMA, name it: --family diffugpt, or diffullama"
    ):
        run_import(tmp_path / "source", tmp_path / "run")


def test_table_of_diffugpt_may_have_more_rows_than_its_config(tmp_path: Path) -> None:
    model = write(tmp_path / "source", "diffugpt", vocab_size=ROWS - 1)
    found = run_import(tmp_path / "source", tmp_path / "run")
    assert any("its table 13 rows, which are taken" in note for note in found.notes)
    assert gap(outputs("diffugpt", tmp_path / "run"), expected("diffugpt", model)) < 1e-6


def test_head_of_diffugpt_may_be_stored_for_its_table(tmp_path: Path) -> None:
    model = write(tmp_path / "source", "diffugpt")
    path = tmp_path / "source/model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors.pop("embed_tokens.weight")
    save_file(tensors, path)
    run_import(tmp_path / "source", tmp_path / "run")
    assert gap(outputs("diffugpt", tmp_path / "run"), expected("diffugpt", model)) < 1e-6


def test_scores_of_experts_keep_float32_beside_halves(tmp_path: Path) -> None:
    write(tmp_path / "source", "llada2_moe")
    path = tmp_path / "source/model.safetensors"
    tensors = {name: x if "expert_bias" in name else x.bfloat16() for name, x in load_file(path).items()}
    save_file(tensors, path)
    run_import(tmp_path / "source", tmp_path / "run")
    stored = load_file(tmp_path / "run/model.safetensors")
    kinds = {name.endswith("e_score_correction_bias"): x.dtype for name, x in stored.items()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert outputs("llada2_moe", tmp_path / "run").isfinite().all()
