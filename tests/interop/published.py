"""Tiny folders in the layouts of published diffusion models, with random weights, made when a test runs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model_factory.interop.import_run import Import, Request, import_run
from tests.oracles.published_ddit import random_state

HEADS, LENGTH, ROWS = 2, 8, 12
_SIZES = {"hidden_dim": 16, "cond_dim": 6, "n_blocks": 2, "n_heads": HEADS, "model_length": LENGTH, "dropout": 0.1}
_HUB = {**_SIZES, "vocab_size": ROWS}
CONFIGS: dict[str, dict[str, Any]] = {
    "sedd": {
        "tokens": ROWS - 1,
        "graph": {"type": "absorb"},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "model": {
            "hidden_size": 16,
            "cond_dim": 6,
            "n_blocks": 2,
            "n_heads": HEADS,
            "length": LENGTH,
            "scale_by_sigma": True,
            "dropout": 0.1,
        },
    },
    "mdlm": {"model_type": "mdlm", **_HUB, "time_conditioning": False},
    "bd3lm": {
        "model_type": "bd3lm",
        **_HUB,
        "time_conditioning": False,
        "block_size": 4,
        "cross_attn": True,
        "adaln": True,
        "causal": False,
    },
    "udlm": {"model_type": "udlm", **_HUB, "time_conditioning": True, "cfg": False, "cfg_num_classes": -1},
    "duo": {"model_type": "DUO", **_HUB, "time_conditioning": True, "causal": False, "var_min": True},
    "gidd": {
        "model_type": "dit",
        "vocab_size": ROWS,
        "max_seq_len": LENGTH,
        "hidden_size": 16,
        "timestep_cond_dim": 6,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "attention_dropout": 0.0,
        "p_uniform": 0.1,
        "t_eps": 1e-4,
    },
}
"""config.json of each family, with the keys of the published ones."""


def published_state(family: str, **sizes: Any) -> dict[str, Tensor]:
    """Return random tensors by their names without a prefix; GIDD's table is padded to 128 rows."""
    return random_state(**{"rows": 128 if family == "gidd" else ROWS, **sizes})


def write_folder(
    folder: Path, family: str, state: dict[str, Tensor] | None = None, **changes: Any
) -> dict[str, Tensor]:
    """Write config.json, with `changes`, and model.safetensors of a family; return the tensors without a prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIGS[family], **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    state = published_state(family) if state is None else state
    save_file(hub_names(family, state), folder / "model.safetensors", {"format": "pt"})
    return state


def hub_names(family: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names on the hub, with the buffers that are saved there."""
    prefix = "" if family in ("sedd", "gidd") else "backbone."
    found = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    half = 16 // HEADS // 2
    found[f"{prefix}rotary_emb.inv_freq"] = 10_000.0 ** (-torch.arange(half).float() / half)
    if family == "bd3lm":
        found |= {"sampling_eps_min": torch.tensor(1e-3), "sampling_eps_max": torch.tensor(0.999)}
    return found


def run_import(source: Path, output: Path, **options: Any) -> Import:
    """Import a folder or file."""
    return import_run(Request(str(source), output, **options))
