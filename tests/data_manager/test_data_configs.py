"""Every file of `configs/data/` is valid; files with available data also load and yield a batch."""

import json
from pathlib import Path

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.parse_data_args import parse_dataset_configs
from data_manager.registry import SOURCES
from tests.data_manager.text_corpora import write_corpora
from tests.real_data import FOLDER

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"
FILES = sorted(CONFIGS.glob("*.yml"))
OF_SPEECH = ("speech_mixture", "cuts", "kaldi", "audio_table", "rttm")
OF_TEXT = [file for file in FILES if "source:" in file.read_text() and file.stem not in (*OF_SPEECH, "hub")]
REAL = ["text", "packed", "bpe", "hugging_face", "pairs", "mixture", "streaming", "smiles"]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    write_corpora(folder)
    return folder


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_data_config_is_valid_and_names_the_schema(file):
    assert file.read_text().splitlines()[0] == "# yaml-language-server: $schema=../schema.json"
    assert (file.parent / "../schema.json").is_file()
    assert parse_dataset_configs(file)


def test_every_source_has_a_data_config():
    found = {config.source for file in FILES for config in parse_dataset_configs(file)}
    assert found >= {
        name
        for name in SOURCES
        if name in SOURCES._entries and SOURCES.get(name).load.__module__.startswith("data_manager")
    }


@pytest.mark.parametrize("file", OF_TEXT, ids=lambda file: file.stem)
def test_data_config_loads(file, corpora, tmp_path):
    if file.stem.startswith("smiles_"):
        pytest.importorskip("rdkit", reason="needs rdkit, the extra chem")
    load(file, corpora, tmp_path)


@pytest.mark.parametrize("name", REAL)
def test_data_config_loads_real_data(name, tmp_path):
    if not FOLDER.is_dir():
        pytest.skip("needs ../shared/data, beside the repository")
    for split in load(CONFIGS / f"{name}.yml", FOLDER, tmp_path):
        if split.tokens is not None:
            assert split.tokens > 15_000


def load(file, corpora, output):
    overrides = [
        f"global_config.corpus_dir={json.dumps(str(corpora))}",
        f"global_config.output_dir={json.dumps(str(output))}",
    ]
    configs = parse_dataset_configs(file, overrides)
    prepared = []
    for name, splits in DatasetManager.load_datasets(configs).items():
        config = next(config for config in configs if config.name == name)
        tokenizer = DatasetManager.tokenizer(config)
        for data in splits.values():
            batch = next(iter(DatasetManager.create_dataloader(data, config, batch_size=4, shuffle=True)))
            ids = batch.get("input_ids", batch.get("source_ids"))
            assert ids.shape[0] > 0
            assert 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size
            assert tokenizer.decode(ids[0]).strip()
        prepared += DatasetManager.preparation(config).values()
    return prepared
