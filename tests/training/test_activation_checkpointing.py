"""`training.activation_checkpointing` in a run: same weights, and refusals with a remedy."""

import pytest

from tests.training.runs import DECODER, experiment, train, weights


def test_checkpointed_run_has_same_weights(tmp_path):
    path, log = experiment(tmp_path, learning_rate=1e-2, gradient_accumulation_steps=2), tmp_path / "log"
    found = []
    for kind in ("none", "full"):
        more = ("--set", f"training.activation_checkpointing={kind}")
        assert train("--config", path, "--output", tmp_path / kind, *more, log=log) == 0, log.read_text()
        found.append(weights(tmp_path / kind))
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    assert all(bool((plain[name] == checkpointed[name]).all()) for name in plain)


def test_network_without_layers_is_refused(tmp_path):
    model = {"model_type": "bigram", "size": 60}
    path = experiment(tmp_path, model=model, activation_checkpointing="full")
    log = tmp_path / "log"
    given = ("--plugin", "tests.training.plugins", "--config", path, "--output", tmp_path / "run")
    assert train(*given, log=log) != 0
    assert "the network Bigram has no layers in a ModuleList, so there is nothing to checkpoint" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"activation_checkpointing": "some"}, "none, selective, full"),
        ({"gradient_checkpointing": True}, "here it is activation_checkpointing: none, selective or full"),
    ],
)
def test_invalid_checkpointing_is_answered_with_the_key(section, said, tmp_path):
    log = tmp_path / "log"
    path = experiment(tmp_path, model={"model_type": "decoder", "decoder": DECODER}, **section)
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 1
    assert said in log.read_text()
