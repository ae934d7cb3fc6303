"""FSDP over two gloo processes: every shipped model has the loss and gradients of one process, and gathers to whole weights."""

import json
import os
import socket

import pytest
import torch
from torch import nn

from model_factory.training.run.weights import read_weights
from model_factory.training.sharding import layers_to_shard
from tests.model import shipped
from tests.training.runs import CONTEXT, DECODER, bytes_of, experiment, losses, train, train_by_two, weights

SECTIONS = shipped.sections(dropout=0.0)
STEPPED = ("encoder linear", "decoder causal_linear", "encoder_decoder linear", "performer softmax without time")
"""Models that take a step of AdamW too."""


class Whole(nn.Module):
    """Root of the sharded modules: a network and its loss, as a `TaskModule` is."""

    def __init__(self, network, section):
        super().__init__()
        self.network, self.section = network, section

    def forward(self, rows):
        return shipped.loss_of(self.network, self.section, rows)


def step(module, rows):
    """Return the loss after one step of AdamW."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    optimiser.step()
    return float(module(rows).detach())


def in_one_of_two(rank, port, folder):
    """Compute losses and gradients of half of the rows in each process; the main one writes what is whole."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor

    from model_factory.training.sharding import gather, shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    half = shipped.ROWS // 2
    rows = slice(rank * half, (rank + 1) * half)
    (folder / str(rank)).mkdir()
    for number, (name, section) in enumerate(SECTIONS.items()):
        found = {}
        for bf16 in (False, True):
            network = shipped.build(section, folder / str(rank))
            module = Whole(network, section)
            shard(module, network, bf16=bf16)
            assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
            whole = gather(network, dict(network.named_parameters()))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = module(rows)
            loss.backward()
            total = loss.detach().clone()
            dist.all_reduce(total)
            gradients = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
            found["bf16" if bf16 else "float32"] = {
                "loss": total / 2,
                "weights": whole,
                "gradients": gather(network, gradients),
            }
            if name in STEPPED and not bf16:
                after = torch.tensor(step(module, rows))
                dist.all_reduce(after)
                found["after"] = after / 2
        if rank == 0:
            torch.save(found, folder / f"{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Run all models in one pair of processes; return what each found, by its name."""
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [CONTEXT.Process(target=in_one_of_two, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return {name: torch.load(folder / f"{number}.pt", weights_only=True) for number, name in enumerate(SECTIONS)}


def distance(found, wanted):
    """Return the norm of the difference of two sets of gradients over that of the second."""
    gap = sum(float((found[name].double() - tensor.double()).square().sum()) for name, tensor in wanted.items())
    return (gap / sum(float(tensor.double().square().sum()) for tensor in wanted.values())) ** 0.5


@pytest.mark.parametrize("name", list(SECTIONS))
def test_sharded_gradients_match_single_process(name, sharded, tmp_path):
    network = shipped.build(SECTIONS[name], tmp_path)
    loss = shipped.loss_of(network, SECTIONS[name])
    loss.backward()
    wanted = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
    exact, narrow = sharded[name]["float32"], sharded[name]["bf16"]
    assert float(exact["loss"]) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert float(narrow["loss"]) == pytest.approx(float(loss.detach()), rel=1e-3)
    assert exact["gradients"].keys() == narrow["gradients"].keys() == wanted.keys()
    assert distance(exact["gradients"], wanted) < 1e-6
    assert distance(narrow["gradients"], wanted) < 0.1
    for part in (exact, narrow):
        own = dict(network.named_parameters())
        assert part["weights"].keys() == own.keys()
        assert all(torch.equal(tensor, own[key]) for key, tensor in part["weights"].items())
        assert part["weights"].keys() <= shipped.build(SECTIONS[name], tmp_path).state_dict().keys()
    if name in STEPPED:
        alone = step(Whole(network, SECTIONS[name]), slice(None))
        assert alone == pytest.approx(float(sharded[name]["after"]), abs=1e-5)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_embedding_and_head_are_in_no_group_of_a_layer(name, tmp_path):
    network = shipped.build(SECTIONS[name], tmp_path)
    layers = layers_to_shard(network)
    assert len(layers) == (4 if "encoder_decoder" in name else 2)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    large = [parameter for parameter in network.parameters() if parameter.shape[:1] in ((shipped.VOCAB,), (21,))]
    assert large
    assert not inside & {id(parameter) for parameter in large}


FSDP = {"learning_rate": 1e-2, "batch_size": 2, "fsdp": True, "ema_decay": 0.9}


def both(folder, **more):
    """Return a config, and runs of it: sharded over two processes of 2 rows, and by one process of 4."""
    path, log = (
        experiment(folder, model={"model_type": "decoder", "decoder": DECODER | {"dropout": 0.0}}, **more),
        folder / "log",
    )
    assert train_by_two("--config", path, "--output", folder / "two", log=log) == [0, 0], log.read_text()
    one = ("--set", "training.fsdp=false", "--set", "training.batch_size=4")
    assert train("--config", path, "--output", folder / "one", *one, log=log) == 0, log.read_text()
    return path, folder / "two", folder / "one"


def test_sharded_run_matches_single_process_and_resumes_bit_exact(tmp_path):
    """Losses, the EMA and its checkpoints are those of one process; a run that lost its last steps repeats them."""
    path, two, one = both(tmp_path, **FSDP)
    for key in ("loss", "eval_loss"):
        assert losses(two, key) == pytest.approx(losses(one, key), abs=1e-5, rel=0)
    first, second = weights(two), weights(one)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in second)
    kept = two / "checkpoint-6" / "ema.safetensors", one / "checkpoint-6" / "ema.safetensors"
    sharded, plain = map(read_weights, kept)
    assert all(torch.allclose(sharded[name], plain[name], atol=1e-5) for name in plain)

    before, average = bytes_of(two), kept[0].read_bytes()
    (two / "model.safetensors").unlink()
    for file in (two / "checkpoint-6").iterdir():
        file.unlink()
    (two / "checkpoint-6").rmdir()
    log = tmp_path / "log"
    assert train_by_two("--config", path, "--output", two, "--resume", log=log) == [0, 0], log.read_text()
    assert bytes_of(two) == before
    assert kept[0].read_bytes() == average
    assert json.loads((two / "checkpoint-6" / "checkpoint.json").read_text())["world"] == 2
