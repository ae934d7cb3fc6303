"""FSDP: each model shards over two processes with fully_shard, trains a step, and gathers to full weights."""

import socket

import pytest
import torch

from tests.training.runs import CONTEXT

SIDE = {"d_model": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "device": "cpu", "vocab_size": 20}
LINEAR = {**SIDE, "attention_type": "linear"}
MDLM = {"process": {"type": "absorbing"}, "schedule": {"type": "loglinear"}, "objective": {"type": "mdlm"}}
BACKBONE = {"type": "performer", "d_model": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "device": "cpu"}
MODELS = {
    "encoder": {"model_type": "encoder", "encoder": LINEAR},
    "decoder": {
        "model_type": "decoder",
        "decoder": {**SIDE, "attention_type": "causal_linear", "tie_embeddings": False},
    },
    "encoder_decoder": {"model_type": "encoder_decoder", "encoder": LINEAR, "decoder": SIDE},
    "diffusion": {"model_type": "diffusion", "vocab_size": 20, **MDLM, "backbone": BACKBONE},
}


def build(section, folder):
    from model.model_factory import create_model
    from model.parse_model_args import parse_model_config
    from model_factory.yaml_config.dump import dump

    path = folder / "model.yml"
    path.write_text(dump({"model": section}))
    torch.manual_seed(0)
    return create_model(parse_model_config(path))


def loss_of(model, section):
    ids = torch.arange(16).view(2, 8) % 20
    if section["model_type"] == "diffusion":
        return model(ids, rows=torch.arange(2), batch_size=2, seed=1).loss
    inputs = (ids, ids) if section["model_type"] == "encoder_decoder" else (ids,)
    return torch.nn.functional.cross_entropy(model(*inputs).flatten(0, 1), ids.flatten())


def step(model, section):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = loss_of(model, section)
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def in_one_of_two(rank, port, section, folder):
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model, mesh = build(section, folder / str(rank)), init_device_mesh("cpu", (2,))
    for module in model.modules():
        if type(module).__name__ in ("TransformerLayer", "DDiTBlock"):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    loss = step(model, section)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full = get_model_state_dict(model, options=options)
    if rank == 0:
        torch.save({"loss": loss, "weights": full}, folder / "full.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", list(MODELS))
def test_fully_shard_step_matches_single_process(kind, tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    section = MODELS[kind]
    processes = [CONTEXT.Process(target=in_one_of_two, args=(rank, port, section, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = torch.load(tmp_path / "full.pt", weights_only=True)
    alone = build(section, tmp_path)
    assert step(alone, section) == pytest.approx(found["loss"], abs=1e-5)
    missing, unexpected = build(section, tmp_path).load_state_dict(found["weights"], strict=False)
    assert not missing
    assert not unexpected
    own = alone.state_dict()
    assert all(torch.allclose(own[name], tensor, atol=1e-5) for name, tensor in found["weights"].items())
