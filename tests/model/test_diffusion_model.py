"""Diffusion models from a file: every valid combination, training, infilling, checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model.denoisers.registry import BACKBONES
from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model.model_factory import create_model, load_model
from model.parse_model_args import read_model_section
from model.transformer.inputs import InputError
from model_factory.diffusion.errors import DiffusionInputError
from model_factory.diffusion.registry import (
    OBJECTIVES,
    PROCESSES,
    SAMPLERS,
    SCHEDULES,
    combinations,
    fitting_samplers,
    processes_of,
)
from model_factory.diffusion.samplers.base import samplers_for
from model_factory.yaml_config.compose import compose
from model_factory.yaml_config.dump import dump

VOCAB, LENGTH = 5, 8
BACKBONE = {
    "ddit": {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 8, "dropout": 0.0},
    "performer": {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "attention_type": "linear"},
}
SETTINGS = {"d3pm": {"num_steps": 10}, "bd3lm": {"block_size": 3}}


def section(
    process: str = "absorbing",
    schedule: str = "loglinear",
    objective: str = "mdlm",
    backbone: Any = "ddit",
    **more: Any,
) -> dict[str, Any]:
    network = BACKBONE[backbone] if isinstance(backbone, str) else backbone
    parts: dict[str, Any] = {name: {"type": kind} for name, kind in (("process", process), ("schedule", schedule))}
    parts["objective"] = {"type": objective, **SETTINGS.get(objective, {})}
    if schedule == "discrete":
        parts["schedule"]["num_steps"] = 10
    return {
        "model_type": "diffusion",
        **parts,
        "backbone": {"device": "cpu", **network},
        "vocab_size": VOCAB,
        "length": LENGTH,
        **more,
    }


def read(data: dict[str, Any]) -> tuple[Any, list[str]]:
    root, _ = compose(dump({"model": data}), "case.yml")
    config, problems = read_model_section(root.entries["model"])
    return config, [problem.headline() for problem in problems]


def build(**parts: Any) -> DiffusionModel:
    torch.manual_seed(0)
    config, problems = read(section(**parts))
    assert problems == []
    model = create_model(config)
    assert isinstance(model, DiffusionModel)
    return model


def test_registry_facts_match_the_built_parts() -> None:
    for name in PROCESSES:
        graph = PROCESSES.get(name).build(PROCESSES.get(name).config_type(), 4)
        assert PROCESSES.get(name).absorbing == graph.absorbing
        assert fitting_samplers(absorbing=PROCESSES.get(name).absorbing) == samplers_for(graph)
    assert {sampler for *_, sampler in combinations()} == set(SAMPLERS)
    assert set(OBJECTIVES) == {"sedd", "mdlm", "udlm", "d3pm", "gidd", "bd3lm", "flexmdm"}


def smoke_cases() -> list[tuple[str, ...]]:
    """Return valid combinations with alternating backbones, so that each is paired with every objective and sampler."""
    found = []
    for number, parts in enumerate(combinations()):
        fitting = [name for name in BACKBONE if "bd3lm" not in parts or BACKBONES.get(name).takes_blocks]
        found.append((*parts, fitting[(number + number // len(fitting) ** 2) % len(fitting)]))
    return found


def test_smoke_cases_cover_all_combinations() -> None:
    cases = smoke_cases()
    assert len(cases) == len(set(cases)) >= 150
    met = {(objective, backbone) for _, _, objective, _, backbone in cases}
    assert met >= {(objective, name) for objective in OBJECTIVES for name in BACKBONE if objective != "bd3lm"}
    met = {(sampler, backbone) for *_, sampler, backbone in cases}
    assert met == {(sampler, name) for sampler in SAMPLERS for name in BACKBONE}


@pytest.mark.parametrize("combination", smoke_cases(), ids="-".join)
def test_every_valid_combination_trains_samples_and_infills(combination: tuple[str, ...]) -> None:
    process, schedule, objective, sampler, backbone = combination
    model = build(process=process, schedule=schedule, objective=objective, backbone=backbone)
    tokens = torch.randint(VOCAB, (2, LENGTH))
    output = model(tokens, torch.arange(LENGTH) < torch.tensor([[LENGTH], [5]]))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    if objective == "flexmdm":  # whose texts begin empty, and are of any length
        samples = model.sample(2, steps=4, sampler=sampler)
        assert samples.shape == (2, LENGTH)
        assert set(samples.unique().tolist()) <= set(range(-1, VOCAB))
        return
    frozen = torch.tensor([True, False, False, True, False, False, False, objective != "bd3lm"])
    if objective == "bd3lm":  # which does not attend to later blocks
        frozen[3] = False
    prompt = torch.randint(VOCAB, (2, LENGTH))
    samples = model.sample(2, steps=4, sampler=sampler, prompt=prompt, frozen=frozen)
    assert samples.shape == (2, LENGTH)
    assert torch.equal(samples[:, frozen], prompt[:, frozen])
    assert samples.min() >= 0
    assert samples.max() < VOCAB


def invalid() -> list[tuple[dict[str, str], str]]:
    return [
        ({"process": process, "objective": objective}, "is defined for")
        for objective in OBJECTIVES
        for process in PROCESSES
        if process not in processes_of(objective)
    ]


@pytest.mark.parametrize(("parts", "words"), invalid(), ids=str)
def test_invalid_combinations_are_errors_at_their_line(parts: dict[str, str], words: str) -> None:
    _, problems = read(section(**parts))
    assert len(problems) == 1
    assert "model.objective.type" in problems[0]
    assert words in problems[0]


@pytest.mark.parametrize("objective", ["sedd", "udlm"])
def test_uniform_noise_needs_time_conditioning(objective: str) -> None:
    _, problems = read(section(process="uniform", objective=objective, time_conditioning=False))
    assert [problem.split(": ")[1] for problem in problems] == ["model.time_conditioning"]


def test_causal_backbone_is_refused() -> None:
    network = {**BACKBONE["performer"], "attention_type": "causal_linear"}
    _, problems = read(section(backbone=network))
    assert len(problems) == 1
    assert "a causal backbone cannot denoise" in problems[0]


@pytest.mark.parametrize("time_conditioning", [True, False])
def test_time_conditioning_follows_the_file(time_conditioning: bool) -> None:
    model = build(time_conditioning=time_conditioning)
    for layer in model.modules():  # adaLN is initialised to zero, which would hide the time
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.2)
    x_t = torch.full((2, LENGTH), VOCAB)
    early, late = (model.denoise(x_t, torch.full((2,), sigma)) for sigma in (0.1, 3.0))
    assert torch.equal(early, late) is not time_conditioning


def test_loss_does_not_depend_on_batch_split() -> None:
    model = build()
    tokens = torch.randint(VOCAB, (8, LENGTH))
    whole = model(tokens, batch_size=8, seed=3).loss
    rows = torch.arange(8)
    parts = [model(tokens[i : i + 2], rows=rows[i : i + 2], batch_size=8, seed=3).loss for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-5, atol=1e-6)


def test_samples_do_not_depend_on_batch_split() -> None:
    model = build(process="uniform", objective="udlm").double()
    draws = [
        model.sample(6, steps=8, generator=torch.Generator().manual_seed(1), batch_size=size) for size in (None, 2, 3)
    ]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], model.sample(6, steps=8, generator=torch.Generator().manual_seed(2)))


def test_padding_is_neither_noised_nor_counted() -> None:
    model = build(process="uniform", objective="udlm").eval()
    tokens = torch.randint(VOCAB, (2, LENGTH))
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [3]])
    other = torch.where(mask, tokens, -100)
    first, second = (model(ids, mask, seed=0) for ids in (tokens, other))
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two)


def test_bound_has_all_parts_in_evaluation_only() -> None:
    model = build()
    tokens = torch.randint(VOCAB, (4, LENGTH))
    training, evaluation = model.train()(tokens, seed=0), model.eval()(tokens, seed=0)
    assert training.prior == 0
    assert evaluation.prior > 0  # because alpha(1) = eps
    torch.testing.assert_close(evaluation.loss, sum(evaluation[1:], torch.zeros(())))
    torch.testing.assert_close(training.diffusion, evaluation.diffusion)


# Upper bound on nats per token after 200 steps, and least share of sampled tokens that follow. A network that learnt
# nothing has log 5 = 1.61 and 0.2, a perfect one log(5) / 8 = 0.20 and 1; comments give the range over six seeds.
LEARNT = {
    ("absorbing", "mdlm"): (0.6, 0.6),  # 0.20 to 0.32, and 0.80 to 0.99
    ("absorbing", "sedd"): (0.6, 0.6),  # 0.21 to 0.28, and 0.83 to 0.96
    ("uniform", "udlm"): (0.95, 0.45),  # 0.46 to 0.65, and 0.65 to 0.85
    ("uniform", "sedd"): (1.3, 0.27),  # 0.92 to 1.07, and 0.33 to 0.43: the slowest
}


@pytest.mark.parametrize(("process", "objective"), LEARNT)
def test_training_learns_to_count(process: str, objective: str) -> None:
    """Sequences count up modulo 5 from any start: every token follows from any other."""
    network = {**BACKBONE["ddit"], "d_model": 32, "num_layers": 2, "cond_dim": 16}
    model, steps = build(process=process, objective=objective, backbone=network), 200
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps))
    for _ in range(steps):
        start = torch.randint(VOCAB, (32, 1))
        optimizer.zero_grad()
        model((start + torch.arange(LENGTH)) % VOCAB).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    rows = ((torch.arange(VOCAB)[:, None] + torch.arange(LENGTH)) % VOCAB).repeat(20, 1)
    with torch.no_grad():
        reached = sum(float(model.eval()(rows, seed=seed).loss) for seed in range(8)) / 8
    samples = model.sample(64, steps=32, sampler="analytic", generator=torch.Generator().manual_seed(0))
    follows = float(((samples[:, 1:] - samples[:, :-1]) % VOCAB == 1).float().mean())
    most, least = LEARNT[process, objective]
    assert reached < most
    assert follows > least


def test_first_hitting_calls_network_once_per_mask() -> None:
    state = build().draw(3, sampler="first_hitting", prompt=torch.tensor([1, 2]))
    assert state.network_calls.tolist() == [LENGTH - 2] * 3


@pytest.mark.parametrize("kind", ["class", "properties"])
def test_conditions_are_learnt_and_guided(kind: str) -> None:
    size = {"num_classes": 2} if kind == "class" else {"size": 1}
    model = build(condition={"type": kind, "dropout": 0.2, **size})
    tokens = torch.stack([torch.full((LENGTH,), c) for c in (0, 1)]).repeat(8, 1)
    cond = torch.tensor([0, 1]).repeat(8) if kind == "class" else torch.tensor([[-1.0], [1.0]]).repeat(8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(tokens, cond=cond).loss.backward()
        optimizer.step()
    samples = model.sample(16, cond=cond, guidance=2.0, generator=torch.Generator().manual_seed(0))
    assert (samples == tokens).float().mean() > 0.9


def test_mdlm_bound_is_not_worse_than_sedd() -> None:
    sedd, mdlm = build(objective="sedd").eval(), build(objective="mdlm", time_conditioning=True).eval()
    ids = torch.randint(VOCAB, (16, LENGTH), generator=torch.Generator().manual_seed(0))
    rows = {"rows": torch.arange(16), "batch_size": 16, "seed": 1}
    for scale in (0.0, 0.3, 1.0):
        torch.manual_seed(1)
        for parameter in sedd.network.parameters():
            nn.init.normal_(parameter, std=scale)
        mdlm.load_state_dict(sedd.state_dict())
        with torch.no_grad():
            scored, normalised = sedd(ids, **rows).diffusion, mdlm(ids, **rows).diffusion
        # log z <= z - 1, where z is the sum of a token's probabilities; 1 if all logits are 0
        assert torch.allclose(normalised, scored) if scale == 0.0 else normalised < scored


def test_save_and_load(tmp_path: Path) -> None:
    model = build(backbone="performer", condition={"type": "class", "num_classes": 3})
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    again = load_model(tmp_path)
    x_t = torch.randint(VOCAB + 1, (2, LENGTH))
    for one in (model, again):
        one.eval()
    sigma = torch.ones(2)
    assert torch.equal(model.denoise(x_t, sigma), again.denoise(x_t, sigma))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda m: m(torch.tensor([[VOCAB] * LENGTH])), "input_ids: got token 5; expected ids from 0 to 4"),
        (lambda m: m(torch.rand(2, LENGTH)), "expected int [B, L]"),
        (
            lambda m: m(torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)),
            "attention_mask must be bool [2, 4], True at real tokens; got bool [2, 3]",
        ),
        (lambda m: m.sample(1, prompt=torch.zeros(LENGTH + 1, dtype=torch.long)), "prompt"),
        (lambda m: m.sample(1, sampler="first_hiting"), "did you mean 'first_hitting'"),
        (lambda m: m.sample(1, guidance=2.0), "but cond is not given"),
        (lambda m: m.sample(1, cond=torch.zeros(1, dtype=torch.long)), "no condition"),
        (lambda m: m.sample(1, temperature=-1.0), "temperature"),
        (lambda m: m.sample(0), "num_samples"),
        (lambda m: m.sample(1, steps=0), "steps"),
    ],
)
def test_bad_input_names_the_argument(use: Callable[[DiffusionModel], Any], words: str) -> None:
    with pytest.raises((DiffusionInputError, InputError)) as caught:
        use(build())
    assert words in str(caught.value)


def test_model_without_vocab_size_names_remedy() -> None:
    data = {key: value for key, value in section().items() if key != "vocab_size"}
    config, problems = read(data)
    assert problems == []
    with pytest.raises(ValueError, match="needs vocab_size"):
        create_model(config)


def test_schedules_follow_the_file() -> None:
    model = build(schedule="geometric")
    assert float(model.process.schedule.sigma(1.0)) == pytest.approx(20.0)
    assert isinstance(model.diffusion_config, DiffusionConfig)
    assert set(SCHEDULES) == {"loglinear", "geometric", "cosine", "linear", "discrete"}


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_defaults_of_file_match_constructors(name: str) -> None:
    entry = SCHEDULES.get(name)
    built = entry.build(entry.config_type())
    default, times = type(built)(), torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.equal(built.sigma(times), default.sigma(times))
    assert {key for key in vars(built) if key != "table"} == {key for key in vars(default) if key != "table"}
