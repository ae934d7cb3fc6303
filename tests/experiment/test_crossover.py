"""Crossover of softmax and linear attention in a summary, at the sequence lengths of the config."""

import pytest

from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from model.types import PerformerParams
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.crossover import MEASURED, crossover, find_crossovers
from model_factory.experiment.summary import summarise_model


def params(**changes):
    base = {"d_model": 128, "num_layers": 1, "num_heads": 2, "device": "cpu", "vocab_size": 11, "batch_size": 1}
    return PerformerParams(**{**base, **changes})


def both(changes, *, is_decoder=False):
    found = crossover("encoder", params(**changes), is_decoder=is_decoder)
    return found.forward, found.training


@pytest.mark.parametrize("is_decoder", [False, True])
def test_the_measured_lengths_of_a_stack_of_that_width(is_decoder):
    for found, wanted in zip(both({}, is_decoder=is_decoder), MEASURED[64, is_decoder], strict=True):
        assert found == pytest.approx(wanted, rel=0.05)
    assert both({"attention_type": "causal_linear"}) == both({}, is_decoder=True)
    assert both({"num_heads": 4}) < both({"num_heads": 4, "d_model": 144})  # of width 32, and 36 with more features


def test_a_token_with_more_features_takes_longer():
    usual = both({"attention_type": "linear"})
    for many, few in zip(both({"attention_type": "linear", "nb_features": 2 * 266}), usual, strict=True):
        assert many == pytest.approx(2 * few, rel=0.1)
    for elu, few in zip(both({"attention_type": "linear", "feature_map": "elu"}), usual, strict=True):
        assert elu == pytest.approx(few * 64 / 266, rel=0.1)


def config_of(kind, section):
    return ExperimentConfig(model=ModelConfig(model_type=kind, name="it", config=section))


def test_stacks_are_named_and_a_decoder_is_causal():
    sections = {"encoder": EncoderConfig(params=params()), "decoder": DecoderConfig(params=params())}
    sections["encoder_decoder"] = EncoderDecoderConfig(encoder_params=params(), decoder_params=params())
    found = {kind: list(find_crossovers(config_of(kind, section))) for kind, section in sections.items()}
    assert found["encoder_decoder"] == [*found["encoder"], *found["decoder"]]
    assert [one.part for one in found["encoder_decoder"]] == ["encoder", "decoder"]
    assert found["decoder"][0].forward > found["encoder"][0].forward


def test_summary_reports_crossover_at_sequence_length():
    config = config_of("decoder", DecoderConfig(params=params()))
    (found,) = find_crossovers(config)
    for length, faster in [(16, "softmax"), (16_384, "linear")]:
        assert found.text(length).endswith(f"at this file's {length:,}, {faster} is the faster")
    summary = summarise_model(config)
    assert summary.table().endswith(found.text(256))
    assert summary.as_dict()["softmax_faster_below"] == [vars(found)]
