"""Wrong settings of an import that fit every shape: each changes the outputs by far more than the tolerance of a right one.

So the comparisons with transformers' classes and with the float64 network would find them.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.denoisers.blocks import Blocks
from model_factory.training.run.folder import load_run
from tests.interop import test_import_language_models as language
from tests.interop.published import HEADS, LENGTH, ROWS, published_state, run_import, write_folder
from tests.interop.test_import_families import IDS, SIGMA
from tests.interop.test_import_language_models import LLADA, MASK, expected, gap
from tests.oracles.published_ddit import logits
from tests.real_data import real_data

FOUND, RIGHT = 1e-3, 1e-6
"""Least difference of a wrong setting, and largest one of the right settings."""
TIME = torch.tensor([0.03, 0.5, 0.97])
Tensors = dict[str, Tensor]


def edit_config(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    changed = {name: tensor.clone().contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(changed, path)


def swapped(*parts: str) -> Callable[[Tensors], Tensors]:
    """Return the change that swaps tensors whose names have the one part or the other, in any family's names."""
    pairs = [parts, tuple(LLADA.get(part, LLADA.get(f"self_attn.{part}", part)) for part in parts)]

    def change(tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for first, second in pairs:
            for name in tensors:
                other = name.replace(first, "#").replace(second, first).replace("#", second)
                if other != name and other in tensors and tensors[other].shape == tensors[name].shape:
                    found[name] = tensors[other]
        assert any(found[name] is not tensor for name, tensor in tensors.items())
        return found

    return change


def zeroed(part: str) -> Callable[[Tensors], Tensors]:
    """Return the change that makes the tensors zero whose names have a part."""

    def change(tensors: Tensors) -> Tensors:
        assert any(part in name for name in tensors)
        return {name: x.zero_() if part in name else x for name, x in tensors.items()}

    return change


LANGUAGE = ["llada", "dream", "sdar", "a2d", "a2d-qwen2", "a2d-llama"]
OF_CONFIG: dict[str, dict[str, Any]] = {
    "rope base": {"rope_theta": 1e4},
    "mask id": {"mask_token_id": MASK - 1},
    "epsilon": {"rms_norm_eps": 0.5},
}
OF_TENSORS = {
    "gate and up": swapped("mlp.gate_proj", "mlp.up_proj"),
    "norms": swapped("input_layernorm", "post_attention_layernorm"),
    "keys and values": swapped("k_proj", "v_proj"),
}
OF_FAMILY: list[tuple[str, str, Any]] = [
    ("llada", "heads", {"n_heads": 4, "n_kv_heads": 2}),
    ("dream", "heads", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    ("dream", "family", {"model_type": "a2d-qwen2"}),
    ("a2d-qwen2", "family", {"model_type": "Dream"}),
    ("dream", "biases", zeroed("_proj.bias")),
    ("a2d-qwen2", "biases", zeroed("_proj.bias")),
    ("sdar", "norms of heads", swapped("q_norm", "k_norm")),
    ("a2d", "norms of heads", swapped("q_norm", "k_norm")),
    ("llada", "tied head", swapped("model.transformer.wte", "model.transformer.ff_out")),
]


def outputs(folder: Path, family: str) -> Tensor:
    run_import(folder, folder.parent / "run")
    return language.outputs(family, folder.parent / "run", language.IDS)


@pytest.mark.parametrize("family", LANGUAGE)
@pytest.mark.parametrize("wrong", [*OF_CONFIG, *OF_TENSORS])
def test_wrong_setting_of_a_language_model_is_found(tmp_path: Path, family: str, wrong: str) -> None:
    model = language.write(tmp_path / "source", family)
    if wrong in OF_CONFIG:
        edit_config(tmp_path / "source/config.json", **OF_CONFIG[wrong])
    else:
        edit_tensors(tmp_path / "source", OF_TENSORS[wrong])
    assert gap(outputs(tmp_path / "source", family), expected(family, model, language.IDS)) > FOUND


@pytest.mark.parametrize(("family", "wrong", "change"), OF_FAMILY, ids=[f"{a}-{b}" for a, b, _ in OF_FAMILY])
def test_wrong_setting_of_one_family_is_found(tmp_path: Path, family: str, wrong: str, change: Any) -> None:
    model = language.write(tmp_path / "source", family)
    if isinstance(change, dict):
        edit_config(tmp_path / "source/config.json", **change)
    else:
        edit_tensors(tmp_path / "source", change)
    assert gap(outputs(tmp_path / "source", family), expected(family, model, language.IDS)) > FOUND


@pytest.mark.parametrize("family", LANGUAGE)
@torch.no_grad()
def test_flipped_shift_and_causal_attention_are_found(tmp_path: Path, family: str) -> None:
    model = language.write(tmp_path / "source", family)
    found = outputs(tmp_path / "source", family)
    wanted = expected(family, model, language.IDS)
    assert gap(found, wanted) < RIGHT
    length = language.IDS.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    causal = model(language.IDS, attention_mask=torch.zeros(1, 1, length, length).masked_fill(~seen, -1e30)).logits
    causal = torch.cat([causal[:, :1], causal[:, :-1]], 1) if family == "dream" else causal
    assert gap(found, causal) > FOUND
    flipped = torch.cat([wanted[:, 1:], wanted[:, -1:]] if family == "dream" else [wanted[:, :1], wanted[:, :-1]], 1)
    assert gap(found, flipped) > FOUND

    path = tmp_path / "run/config.yml"
    config = yaml.safe_load(path.read_text())
    config["model"]["backbone"]["shift"] ^= True
    path.write_text(yaml.safe_dump(config))
    if family == "sdar":  # a file that says both is refused
        with pytest.raises(ValueError, match="blocks need logits at their own positions"):
            language.outputs(family, tmp_path / "run", language.IDS)
    else:
        assert gap(language.outputs(family, tmp_path / "run", language.IDS), wanted) > FOUND


@torch.no_grad()
def test_wrong_block_size_is_found(tmp_path: Path) -> None:
    """Blocks of the wrong size hide and show other tokens."""
    model = language.write(tmp_path / "source", "sdar")
    found = outputs(tmp_path / "source", "sdar")
    for size in (2, 8):
        block = torch.arange(language.IDS.shape[1]) // size
        hidden = torch.zeros(1, 1, len(block), len(block)).masked_fill(block[:, None] < block[None], -1e30)
        assert gap(found, model(language.IDS, attention_mask=hidden).logits) > FOUND


# Outputs of the published code.


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
@pytest.mark.parametrize("wrong", [None, "shift", "causal", *OF_CONFIG, *OF_TENSORS])
@torch.no_grad()
def test_wrong_setting_differs_from_the_published_code(tmp_path: Path, family: str, wrong: str | None) -> None:
    source = shutil.copytree(real_data("published") / family, tmp_path / "source")
    stored = load_file(source / "expected.safetensors")
    mask, rows = 66, 67
    if wrong in OF_CONFIG:
        changes = {key: mask - 1 if key == "mask_token_id" else value for key, value in OF_CONFIG[wrong].items()}
        edit_config(source / "config.json", **changes)
    elif wrong in OF_TENSORS:
        edit_tensors(source, OF_TENSORS[wrong])
    run_import(source, tmp_path / "run")
    network: Any = load_run(tmp_path / "run", device="cpu").model.network
    ids, wanted = stored["input_ids"], stored["logits"]
    block = torch.arange(ids.shape[1]) // (1 if wrong == "causal" else language.BLOCK)
    is_blocked = wrong == "causal" or family == "sdar"
    blocks = (
        Blocks(torch.arange(len(block)), block[:, None] >= block[None]) if is_blocked and family != "dream" else None
    )
    if family == "dream" and wrong == "causal":  # logits that are shifted do not go with blocks
        network.model.config.is_causal = True
        shown = network.model(ids).logits
        found = torch.cat([shown[:, :1], shown[:, :-1]], 1)
    else:
        found = network(ids.masked_fill(ids == mask, rows), blocks=blocks)[..., :rows]
    if (family == "dream") is not (wrong == "shift"):  # its outputs are saved before the shift
        wanted = torch.cat([wanted[:, :1], wanted[:, :-1]], 1)
    difference = gap(found, wanted, mask)
    assert difference < RIGHT if wrong is None else difference > FOUND


# The DDiT family, against the float64 network.


def reference(family: str, state: Tensors, **changes: Any) -> Tensor:
    """Return the published logits of `IDS` in float64; GIDD is conditioned on the time."""
    level = {"mdlm": torch.zeros(3), "gidd": TIME}.get(family, SIGMA)
    return logits(state, **{"heads": HEADS, "ids": IDS, "level": level, **changes})[..., :ROWS]


def of_qkv(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: change(x) if "attn_qkv" in name else x for name, x in tensors.items()}


def of_modulation(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: change(x) if "adaLN" in name else x for name, x in tensors.items()}


DDIT: dict[str, Callable[[Tensors], Tensors]] = {
    "queries and keys": of_qkv(lambda x: torch.cat([*x.chunk(3)[1::-1], x.chunk(3)[2]])),
    "order of qkv": of_qkv(lambda x: x.unflatten(0, (HEADS, 3, -1)).transpose(0, 1).flatten(0, 2)),
    "shift and scale": of_modulation(lambda x: torch.cat([x[16:32], x[:16], x[32:]])),
    "biases": zeroed("mlp.0.bias"),
    "norms": swapped("norm1", "norm2"),
}


@pytest.mark.parametrize("family", ["sedd", "mdlm", "udlm", "duo", "gidd"])
@pytest.mark.parametrize("wrong", ["heads", "causal", "level", *DDIT])
@torch.no_grad()
def test_wrong_setting_of_the_ddit_family_is_found(tmp_path: Path, family: str, wrong: str) -> None:
    state = published_state(family)
    changed = DDIT[wrong]({name: x.clone() for name, x in state.items()}) if wrong in DDIT else state
    write_folder(tmp_path / "source", family, changed)
    key = {"sedd": "model", "gidd": "num_attention_heads"}.get(family, "n_heads")
    if wrong == "heads":
        path = tmp_path / "source/config.json"
        old = json.loads(path.read_text())[key]
        edit_config(path, **{key: {**old, "n_heads": 4} if isinstance(old, dict) else 4})
        edit_tensors(tmp_path / "source", lambda tensors: {n: x for n, x in tensors.items() if "inv_freq" not in n})
    run_import(tmp_path / "source", tmp_path / "run")
    model: Any = load_run(tmp_path / "run", device="cpu").model.double()
    found = model.denoise(IDS, model.process.schedule.sigma(TIME.double()) if family == "gidd" else SIGMA)
    changes: dict[str, Any] = {}
    if wrong == "causal":
        changes["attend"] = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    elif wrong == "level":
        changes["level"] = SIGMA if family in ("gidd", "mdlm") else TIME
    wanted = reference(family, state, **changes)
    assert (found - wanted).abs().max() > FOUND
    if wrong in ("causal", "level"):
        assert (found - reference(family, state)).abs().max() < RIGHT


def test_wrong_mixture_of_gidd_is_found(tmp_path: Path) -> None:
    scales = []
    for index, share in enumerate((0.1, 0.2)):
        write_folder(tmp_path / f"source{index}", "gidd", p_uniform=share)
        run_import(tmp_path / f"source{index}", tmp_path / f"run{index}")
        scales.append(load_run(tmp_path / f"run{index}", device="cpu").model.process.graph.mixture.scale)
    assert scales == [2 * 0.1 / 0.9, 2 * 0.2 / 0.8]


@torch.no_grad()
def test_wrong_scaling_of_sedd_is_found(tmp_path: Path) -> None:
    scores = []
    for index, scaled in enumerate((True, False)):
        settings = {"hidden_size": 16, "cond_dim": 6, "n_blocks": 2, "n_heads": HEADS, "length": LENGTH}
        write_folder(tmp_path / f"source{index}", "sedd", model={**settings, "scale_by_sigma": scaled})
        run_import(tmp_path / f"source{index}", tmp_path / f"run{index}")
        model: Any = load_run(tmp_path / f"run{index}", device="cpu").model
        scores.append(model.objective.parameterisation.log_score(model.denoise(IDS, SIGMA), IDS, SIGMA))
    assert (scores[0] - scores[1]).abs().max() > FOUND
