"""Packaged speech configs load small corpora in the layout of the real ones and give batches."""

from pathlib import Path

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.parse_data_args import parse_dataset_configs
from model_factory.cli.data import main
from model_factory.experiment.config import read_experiment
from tests.data_manager.corpora import librispeech_part, timit, yesno
from tests.data_manager.own_corpora import own_corpora
from tests.real_data import real_data

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"


@pytest.fixture
def overrides(tmp_path):
    """Config overrides for corpora in a temporary folder."""
    root = tmp_path / "data" / "librispeech" / "LibriSpeech"
    librispeech_part(root, "train-clean-5", {f"SOME WORDS {index}": 0.3 + 0.1 * index for index in range(6)})
    librispeech_part(root, "dev-clean-2", {"OTHER WORDS": 0.4}, speaker="90")
    timit(tmp_path / "data" / "timit")
    yesno(tmp_path / "data" / "yesno" / "waves_yesno")
    own_corpora(tmp_path / "data")
    return [f"global_config.corpus_dir={tmp_path / 'data'}", f"global_config.output_dir={tmp_path / 'manifests'}"]


@pytest.mark.parametrize(
    ("name", "split", "width", "keys"),
    [
        ("librispeech", "train-clean-5", 80, {"labels"}),
        ("timit", "TRAIN", 13, {"labels", "speaker_activity"}),
        ("yesno", "train", 40, {"labels"}),
        ("speech_mixture", "train", 80, {"labels"}),
        ("cuts", "dev", 80, {"labels"}),
        ("kaldi", "train", 80, {"labels"}),
        ("audio_table", "train", 80, {"labels"}),
        ("audio_table", "dev", 80, {"labels"}),
        ("rttm", "train", 80, {"speaker_activity"}),
    ],
)
def test_packaged_speech_configs_load(overrides, name, split, width, keys):
    configs = parse_dataset_configs(CONFIGS / f"{name}.yml", overrides)
    splits = DatasetManager.load_datasets(datasets=configs)
    config = next(config for config in reversed(configs) if config.name != "my_noise")
    batch = next(iter(DatasetManager.create_dataloader(splits[config.name][split], config, batch_size=2, augment=True)))
    assert batch["features"].shape[2] == width
    assert keys < set(batch)


def test_loading_command_on_speech_configs(overrides, tmp_path, capsys):
    options = [word for override in overrides for word in ("--set", override)]
    (tmp_path / "data" / "librispeech" / "LibriSpeech" / "dev-clean-2" / "90" / "1" / "90-1-0000.flac").write_bytes(b"")
    assert main(["--config", str(CONFIGS / "librispeech.yml"), *options]) == 4
    assert "90-1-0000.flac" in capsys.readouterr().err
    assert main(["--config", str(CONFIGS / "timit.yml"), *options]) == 0
    printed = capsys.readouterr().out
    assert "TRAIN: 2 cuts, 1.0 seconds" in printed
    assert "TEST: 1 cut, 0.5 seconds" in printed
    assert "She had greasy water." in printed
    assert "manifests/timit/" in printed


def test_real_utterance_with_all_transforms(tmp_path):
    shared = f"corpus_dir: {real_data('librispeech').parent}, output_dir: {tmp_path}"
    (tmp_path / "x.yml").write_text(
        f"global_config: {{{shared}}}\n"
        "datasets:\n"
        "  - name: librispeech\n"
        "    features: {type: mfcc, num_mel_bins: 40, num_ceps: 40, sampling_rate: 8000, storage: lilcom_chunky}\n"
        "    windows: {seconds: 4.0}\n"
        "    speed_perturbation: {factors: [1.1], splits: [dev-clean]}\n"
        "    tokenizer: {type: characters}\n"
        "    loading: {max_duration: 9.0, num_buckets: 2, speakers: true}\n"
    )
    (config,) = parse_dataset_configs(tmp_path / "x.yml")
    cuts = DatasetManager.load_dataset(config)["dev-clean"]
    assert [round(cut.duration, 2) for cut in cuts] == [4.0, 4.0, 3.66, 3.64, 3.64, 3.33]
    found = list(DatasetManager.create_dataloader(cuts, config, batch_size=1))
    assert sum(len(batch["text"]) for batch in found) == 6
    assert all(batch["feature_mask"].numel() <= 900 and batch["features"].shape[2] == 40 for batch in found)


@pytest.mark.parametrize(
    ("encoder", "more"),
    [
        ("d_model: 80", ""),
        ("d_model: 64", "training: {max_steps: 1}\n"),
        ("d_model: 64, vocab_size: 9", ""),
        ("d_model: 64, input_dim: 80", ""),
    ],
)
def test_frame_width_fits_encoder(tmp_path, encoder, more):
    path = tmp_path / "x.yml"
    model = f"model:\n  model_type: encoder\n  encoder: {{{encoder}, num_layers: 1, num_heads: 4}}\n"
    path.write_text(f"{model}datasets: [{{name: yesno, tokenizer: {{type: characters}}}}]\n{more}")
    assert read_experiment(path).config.datasets
