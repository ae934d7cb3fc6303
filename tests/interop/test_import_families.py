"""Imported networks of the DDiT family give the published networks' outputs.

References are a float64 network written from its description, and, where they are there, outputs of the published code
in ../shared/data/published.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_factory.training.run.folder import load_run
from tests.interop.published import HEADS, LENGTH, ROWS, published_state, run_import, write_folder
from tests.oracles.published_ddit import logits
from tests.real_data import real_data

IDS = torch.randint(ROWS, (3, LENGTH), generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.05, 0.7, 4.0])


def imported(tmp_path: Path, family: str, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
    """Import a folder of random weights, remove it, and return the model in float64 with the published tensors."""
    state = write_folder(tmp_path / "source", family, **changes)
    run_import(tmp_path / "source", tmp_path / "run")
    shutil.rmtree(tmp_path / "source")
    return load_run(tmp_path / "run", device="cpu").model.double(), state


@torch.no_grad()
def gap(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours.double() - theirs.double()).abs().max().item()


@pytest.mark.parametrize("family", ["sedd", "mdlm", "udlm", "duo"])
@torch.no_grad()
def test_import_gives_published_outputs(tmp_path: Path, family: str) -> None:
    model, state = imported(tmp_path, family)
    level = torch.zeros(3) if family == "mdlm" else SIGMA
    assert gap(model.denoise(IDS, SIGMA), logits(state, HEADS, IDS, level)) < 1e-10
    if family != "mdlm":
        assert gap(model.denoise(IDS, SIGMA), logits(state, HEADS, IDS, torch.zeros(3))) > 1e-3


@torch.no_grad()
def test_import_of_sedd_shifts_scores_as_published(tmp_path: Path) -> None:
    model, state = imported(tmp_path, "sedd")
    shift = torch.expm1(SIGMA.double()).log() + torch.tensor(ROWS - 1.0, dtype=torch.float64).log()
    wanted = (logits(state, HEADS, IDS, SIGMA) - shift[:, None, None]).scatter(-1, IDS[..., None], 0.0)
    found = model.objective.parameterisation.log_score(model.denoise(IDS, SIGMA), IDS, SIGMA)
    assert gap(found, wanted) < 1e-6  # sigma is rounded to float32 for the network, and is float64 in the shift


@torch.no_grad()
def test_import_of_mdlm_with_time_conditioning_is_told_sigma(tmp_path: Path) -> None:
    model, state = imported(tmp_path, "mdlm", time_conditioning=True)
    assert gap(model.denoise(IDS, SIGMA), logits(state, HEADS, IDS, SIGMA)) < 1e-10


@torch.no_grad()
def test_import_of_bd3lm_attends_by_blocks(tmp_path: Path) -> None:
    model, state = imported(tmp_path, "bd3lm")
    block, clean = torch.arange(2 * LENGTH) % LENGTH // 4, torch.arange(2 * LENGTH) >= LENGTH
    before = clean[None] & (block[None] < block[:, None])
    attend = before | ((clean[None] == clean[:, None]) & (block[None] == block[:, None]))
    both, places = torch.cat([IDS, IDS.flip(1)], 1), torch.arange(2 * LENGTH) % LENGTH
    wanted = logits(state, HEADS, both, torch.zeros(3), attend=attend, positions=places)
    assert gap(model.denoise(both, None)[:, :LENGTH], wanted[:, :LENGTH]) < 1e-10


@torch.no_grad()
def test_import_of_gidd_is_told_the_time(tmp_path: Path) -> None:
    model, state = imported(tmp_path, "gidd")
    time = torch.tensor([0.03, 0.5, 0.97], dtype=torch.float64)
    sigma = model.process.schedule.sigma(time)
    found = model.denoise(IDS, sigma)
    assert gap(found, logits(state, HEADS, IDS, time.float())[..., :ROWS]) < 1e-6
    graph = model.process.graph
    assert (graph.num_tokens, graph.mixture.scale) == (ROWS - 1, 2 * 0.1 / 0.9)
    per_token = model.denoise(IDS, sigma[:, None].expand(IDS.shape).clone())
    assert gap(per_token, found) < 1e-6


@torch.no_grad()
def test_import_of_gidd_without_uniform_noise_is_absorbing(tmp_path: Path) -> None:
    model, state = imported(tmp_path, "gidd", p_uniform=0.0)
    assert model.process.graph.absorbing
    time = torch.tensor([0.03, 0.5, 0.97], dtype=torch.float64)
    found = model.denoise(IDS, -torch.log1p(-time))
    assert gap(found, logits(state, HEADS, IDS, time.float())[..., :ROWS]) < 1e-6


@torch.no_grad()
def test_import_of_udlm_with_classes_adds_silu_of_each(tmp_path: Path) -> None:
    state = published_state("udlm", classes=3)
    write_folder(tmp_path / "source", "udlm", state, cfg=True, cfg_num_classes=3)
    run_import(tmp_path / "source", tmp_path / "run")
    model: Any = load_run(tmp_path / "run", device="cpu").model.double()
    classes = torch.tensor([0, 2, 3])  # 3 is the null condition
    wanted = logits(state, HEADS, IDS, SIGMA, cond=classes)
    assert gap(model.denoise(IDS, SIGMA, cond=classes), wanted) < 1e-10
    assert gap(model.denoise(IDS, SIGMA)[2], wanted[2]) < 1e-10


@torch.no_grad()
def test_import_moves_a_mask_inside_the_vocabulary(tmp_path: Path) -> None:
    state = write_folder(tmp_path / "source", "mdlm")
    run_import(tmp_path / "source", tmp_path / "run", mask_id=5)
    model: Any = load_run(tmp_path / "run", device="cpu").model.double()
    theirs = IDS.masked_fill(IDS == 7, 5)
    ours = theirs.masked_fill(theirs == 5, ROWS)
    wanted = logits(state, HEADS, theirs, torch.zeros(3))
    wanted[..., 5] = -torch.inf  # SUBS gives the mask no probability
    found = model.process.graph.clean_log_probs(model.denoise(ours, None), ours)
    masked = ours == ROWS
    assert masked.any()
    assert gap(found[..., :ROWS][masked].exp(), wanted.log_softmax(-1)[masked].exp()) < 1e-10


# The published code's own outputs, which are float32: a float64 network is up to 2.12e-6 away from them.
ROUNDING = 2.2e-6


@pytest.mark.parametrize("family", ["sedd", "mdlm", "bd3lm", "udlm"])
@torch.no_grad()
def test_import_gives_outputs_of_the_published_code(tmp_path: Path, family: str) -> None:
    source = real_data("published") / family
    expected = load_file(source / "expected.safetensors")
    run_import(source, tmp_path / "run", allow_pickle=family == "mdlm")
    model: Any = load_run(tmp_path / "run", device="cpu").model.double()
    if family == "bd3lm":
        found = model.denoise(torch.cat([expected["x_t"], expected["x_0"]], 1), None).chunk(2, 1)[0]
    else:
        found = model.denoise(expected["input_ids"], expected.get("sigma"))
    if family == "sedd":
        found = model.objective.parameterisation.log_score(found, expected["input_ids"], expected["sigma"])
    assert gap(found, expected["log_score" if family == "sedd" else "logits"]) < ROUNDING


@pytest.mark.parametrize("family", ["sedd_uniform", "mdlm_time"])
@torch.no_grad()
def test_import_gives_outputs_of_other_published_settings(tmp_path: Path, family: str) -> None:
    tensors = load_file(real_data("published") / f"{family}.safetensors")
    sizes: dict[str, Any] = {"cond_dim": 32, "n_blocks": 2, "n_heads": 4}
    if family == "sedd_uniform":
        model = {**sizes, "hidden_size": 64, "length": 24, "scale_by_sigma": False}
        changes: dict[str, Any] = {"tokens": 37, "graph": {"type": "uniform"}, "model": model}
    else:
        changes = {**sizes, "hidden_dim": 64, "model_length": 24, "vocab_size": 37, "time_conditioning": True}
    source = tmp_path / "source"
    write_folder(source, family.partition("_")[0], **changes)
    weights = {name.removeprefix("weights."): x for name, x in tensors.items() if name.startswith("weights.")}
    save_file(weights, source / "model.safetensors")
    run_import(source, tmp_path / "run")
    network: Any = load_run(tmp_path / "run", device="cpu").model.double()
    found = network.denoise(tensors["x_t"], tensors["sigma"])
    if family == "sedd_uniform":
        found = network.objective.parameterisation.log_score(found, tensors["x_t"], tensors["sigma"])
    assert gap(found, tensors["logits"]) < ROUNDING
