"""Trained latent diffusion run, small enough for tests, on sentences of a few words."""

from itertools import product
from pathlib import Path

from model_factory.training.engine import train
from model_factory.yaml_config.dump import dump
from parse_args import parse_experiment

SUBJECTS = ("a dog", "two cats", "the bird", "some men")
VERBS = ("see", "like", "help")
OBJECTS = ("a tree", "two fish", "the sun")
TEXTS = [" ".join(words) for words in product(SUBJECTS, VERBS, OBJECTS)]
PART = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "max_length": 24}


def trained_run(folder: Path) -> Path:
    """Train on 30 of the 36 sentences, with the other 6 as split test; return the run folder."""
    data = folder / "data"
    data.mkdir(parents=True)
    texts = TEXTS[::5] + [text for index, text in enumerate(TEXTS) if index % 5]
    for split, chosen in (("train", texts[6:]), ("test", texts[:6])):
        (data / f"{split}.txt").write_text("\n".join(chosen) + "\n")
    content = {
        "model": {
            "model_type": "latent_diffusion",
            "name": "tiny",
            "encoder": {"type": "BertForLatentConnectorAVG", **PART},
            "decoder": {"type": "GPT2ForLatentConnector", **PART},
            "latent": {"size": 16, "kl_weight": 0.001},
            "denoiser": {"type": "mlp", "width": 64, "num_layers": 3},
            "diffusion": {"num_steps": 50},
            "device": "cpu",
        },
        "global_config": {"corpus_dir": str(data), "output_dir": str(folder / "manifests")},
        "datasets": [
            {
                "name": "sentences",
                "source": "text",
                "data_files": {"train": "train.txt", "test": "test.txt"},
                "documents": "line",
                "rows": "whole",
                "sequence_length": 20,
                "tokenizer": {"type": "bpe", "vocab_size": 300},
            }
        ],
        "training": {
            "max_steps": 240,
            "batch_size": 30,
            "learning_rate": 4e-3,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 10,
            "adam_beta2": 0.99,
            "save_steps": 240,
            "eval_steps": 240,
            "stages": [{"train": "autoencoder", "steps": 160}, {"train": "diffusion"}],
        },
        "generation": {"num_samples": 5, "max_new_tokens": 20},
    }
    (folder / "experiment.yml").write_text(dump(content))
    train(parse_experiment(folder / "experiment.yml"), folder / "run")
    return folder / "run"
