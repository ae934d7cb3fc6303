"""Packaged configs of `configs/training/` and `configs/latent/`: each trains, evaluates and samples on small corpora."""

from pathlib import Path

import pytest

from benchmarks.two_speakers import write_corpus
from tests.data_manager.corpora import librispeech_part
from tests.data_manager.text_corpora import write_corpora
from tests.training.runs import losses, train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted([*(CONFIGS / "training").glob("*.yml"), *(CONFIGS / "latent").glob("*.yml")])
SHORT = {
    "training": {"max_steps": 1, "warmup_steps": 0, "batch_size": 2, "max_eval_samples": 2, "eval_steps": 1},
    "generation": {"num_samples": 1, "max_new_tokens": 4},
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_corpora(folder)
    write_corpus(folder / "voxconverse", 3, 2.0, seed=0)
    librispeech_part(folder / "librispeech" / "LibriSpeech", "dev-clean", {"ONE TWO": 1.0, "THREE": 1.5})
    return folder


LATENT = {"stages": "[{train: autoencoder, steps: 1}, {train: diffusion, steps: 1}, {train: joint}]", "max_steps": 3}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_packaged_config_trains(file: Path, corpora: Path, tmp_path: Path) -> None:
    if "properties" in file.stem:
        pytest.importorskip("rdkit", reason="needs rdkit, the extra chem")
    short = [f"{section}.{key}={value}" for section, keys in SHORT.items() for key, value in keys.items()]
    if file.parent.name == "latent":
        short += [f"training.{key}={value}" for key, value in LATENT.items()] + ["generation.steps=2"]
    folders = [f"global_config.corpus_dir={corpora}", f"global_config.output_dir={tmp_path / 'prepared'}"]
    options = [word for option in (*short, *folders) for word in ("--set", option)]
    log = tmp_path / "log"
    assert train("--config", file, "--output", tmp_path / "run", *options, log=log) == 0, log.read_text()
    assert losses(tmp_path / "run", "eval_loss")
    assert (tmp_path / "run" / "samples.txt").read_text().startswith("===== step 1 =====")
    if file.parent.name == "latent":
        for part in ("reconstruction", "kl", "diffusion"):
            assert losses(tmp_path / "run", f"eval_{part}")
