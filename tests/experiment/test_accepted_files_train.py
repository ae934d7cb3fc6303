"""A file that the check calls good trains a step: random files, paired with data that fit.

`ACCEPTED_FILES=300 pytest tests/experiment/test_accepted_files_train.py` tries more of them, `ACCEPTED_FILES_SEED=N` others.
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train
from model_factory.training.trial import try_step
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError

COUNT = int(os.environ.get("ACCEPTED_FILES", "30"))
SEED = int(os.environ.get("ACCEPTED_FILES_SEED", "0"))
WHOLE_RUNS = 10
"""One in `WHOLE_RUNS` accepted files is trained by the whole engine, with an evaluation and samples."""
WORDS = ("a", "bc", "def", "ghij", "klmno", "pq", "rs", "tuv")

Section = dict[str, Any]


class Files:
    """Draws experiments from a seed; most of their settings are valid, and combinations are left to chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def some(self, probability: float, **choices: tuple) -> Section:
        """Draw each key with this probability, and its value."""
        return {key: self.random.choice(values) for key, values in choices.items() if self.chance(probability)}

    def stack(self, *, attention: tuple[str, ...]) -> Section:
        return {
            "d_model": self.random.choice((8, 16)),
            "num_layers": self.random.choice((1, 2)),
            "num_heads": self.random.choice((1, 2, 4)),
            "device": "cpu",
            "attention_type": self.random.choice(attention),
            **self.some(
                0.2,
                max_length=(8, 16, 64),
                position=("rotary", "absolute", "none"),
                feature_map=("favor+", "relu", "elu"),
                activation=("GELU", "SWIGLU", "relu"),
                qk_norm=(True,),
                use_rezero=(True,),
                use_scalenorm=(True,),
                num_kv_heads=(1, 2),
                dropout=(0.0, 0.5),
                vocab_size=(100, 500),
                tie_embeddings=(False,),
            ),
            **self.some(0.04, input_dim=(8,), use_cross_attention=(True, False)),
        }

    def model(self) -> Section:
        kind = self.random.choice(("encoder", "decoder", "encoder_decoder", "diffusion", "latent_diffusion"))
        section: Section = {"model_type": kind}
        both, causal = ("softmax", "linear"), ("softmax", "causal_linear")
        if kind in ("encoder", "encoder_decoder"):
            section["encoder"] = self.stack(attention=both)
        if kind in ("decoder", "encoder_decoder"):
            section["decoder"] = self.stack(attention=causal)
        if kind == "encoder_decoder":
            section["decoder"]["d_model"] = section["encoder"]["d_model"]
        if kind == "diffusion":
            section |= self.diffusion()
        if kind == "latent_diffusion":
            section |= self.latent()
        return section

    def diffusion(self) -> Section:
        process = self.random.choice(("absorbing", "uniform", "hybrid"))
        objective = self.random.choice(
            {"absorbing": ("mdlm", "sedd", "d3pm", "gidd", "bd3lm"), "uniform": ("udlm", "sedd", "gidd")}.get(
                process, ("gidd", "sedd")
            )
        )
        schedule = (
            "discrete" if objective == "d3pm" else self.random.choice(("loglinear", "cosine", "geometric", "linear"))
        )
        width = {"d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
        backbone = self.random.choice(
            (
                {"type": "ddit", **width},
                {"type": "performer", **width, **self.some(0.3, attention_type=("linear",), max_length=(8, 64))},
                {
                    "type": "bert",
                    "hidden_size": 16,
                    "num_layers": 1,
                    "num_heads": 2,
                    "device": "cpu",
                    **self.some(0.3, max_length=(8, 64)),
                },
            )
        )
        condition = {"type": "class", "num_classes": 3} if self.chance(0.15) else None
        return {
            "process": {"type": process},
            "objective": {"type": objective},
            "schedule": {"type": schedule},
            "backbone": backbone,
            **({"condition": condition} if condition else {}),
        }

    def latent(self) -> Section:
        width = {"d_model": 16, "num_layers": 1, "num_heads": 2, **self.some(0.3, max_length=(16, 32))}
        return {
            "device": "cpu",
            "encoder": {"type": "performer", **width},
            "decoder": {
                "type": "performer",
                **width,
                **self.some(0.3, routes=(["embedding"], ["cross_attention"], ["soft_prompt"])),
            },
            "latent": {"size": 4, **self.some(0.2, variance=(0.01,), normalise=(False,))},
            "denoiser": {"type": "mlp", "width": 8, "num_layers": 2},
            "diffusion": {"num_steps": 4},
        }

    def dataset(self, folder: Path) -> Section:
        source = self.random.choice(("lines", "lines", "file", "pairs", "classes", "classes"))
        splits = ("train", "validation") if self.chance(0.7) else ("train",)
        entry: Section = {"name": f"data-{source}", "source": "csv" if source == "classes" else "text"}
        if source == "pairs":
            pair = {"source": str(folder / "lines.txt"), "target": str(folder / "back.txt")}
            entry["data_files"] = dict.fromkeys(splits, pair)
        else:
            name = "rows.csv" if source == "classes" else "lines.txt"
            entry["data_files"] = dict.fromkeys(splits, str(folder / name))
        if source == "classes":
            entry |= {"label": "kind", **self.some(0.5, classes=(["x", "y", "z"],))}
            if "classes" not in entry:
                entry["label"] = "number"
        if source == "lines":
            entry |= {"documents": "line", **self.some(0.7, rows=("whole", "packed", "cut"))}
        entry |= self.some(0.6, sequence_length=(8, 16, 32))
        if self.chance(0.05):  # shorter than the documents, which a whole row must then leave out or cut
            entry["sequence_length"] = self.random.choice((1, 2, 3))
            entry |= {"too_long": self.random.choice(("cut", "skip"))} if self.is_whole(entry) else {}
        entry |= self.some(0.05, streaming=(True,), bucketing=(True,))
        kinds = ({"type": "characters"}, {"type": "bytes"}, {"type": "bpe", "vocab_size": 270})
        return entry | self.some(0.6, tokenizer=kinds)

    @staticmethod
    def is_whole(entry: Section) -> bool:
        return "label" in entry or entry.get("rows") == "whole" or entry["name"] == "data-pairs"

    def training(self) -> Section:
        return {
            "max_steps": 1,
            "batch_size": 2,
            "max_eval_samples": 2,
            **self.some(
                0.1,
                gradient_accumulation_steps=(2,),
                optim=("adafactor", "adamw_torch"),
                bf16=(True,),
                ema_decay=(0.9,),
                early_stopping_patience=(2,),
                load_best_model_at_end=(True,),
                loss_weighting=("uniform",),
                num_labels=(2, 3, 5),
                lr_scheduler_type=("cosine", "constant"),
            ),
            **self.some(0.03, speech=({"subsampling": 2},), fp16=(True,), task=("diffusion", "translation")),
        }

    def generation(self) -> Section:
        return {
            "num_samples": 1,
            "max_new_tokens": 2,
            **self.some(0.1, num_beams=(2,), top_k=(3,), top_p=(0.5,), temperature=(0.0, 0.7), steps=(2,)),
        }

    def experiment(self, folder: Path) -> Section:
        return {
            "model": self.model(),
            "global_config": {"output_dir": str(folder / "prepared")},
            "datasets": [self.dataset(folder)],
            "training": self.training(),
            "generation": self.generation(),
        }


def write_data(folder: Path) -> None:
    """Write lines of a few characters, the same backwards, and rows with a class."""
    (folder / "lines.txt").write_text("".join(f"{word}\n" for word in WORDS * 6))
    (folder / "back.txt").write_text("".join(f"{word[::-1]}\n" for word in WORDS * 6))
    rows = "".join(f"{word},{'xyz'[i % 3]},{i % 3}\n" for i, word in enumerate(WORDS * 6))
    (folder / "rows.csv").write_text("text,kind,number\n" + rows)


def test_accepted_files_train_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    accepted = rejected = 0
    kinds: set[str] = set()
    failures = []
    seed = SEED * 1_000_000
    while accepted < COUNT:
        seed += 1
        path = tmp_path / f"{seed}.yml"
        path.write_text(dump(Files(seed).experiment(tmp_path)))
        try:
            config = read_experiment(path).config
        except ConfigError:
            rejected += 1
            continue
        accepted += 1
        assert config.model is not None
        kinds.add(config.model.model_type)
        try:
            if accepted % WHOLE_RUNS == 0:
                train(config, tmp_path / f"run-{seed}")
            else:
                try_step(config)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}\n{path.read_text()}")
    assert not failures, f"{len(failures)} of {COUNT} accepted files fail:\n\n" + "\n\n".join(failures)
    assert len(kinds) == 5
    assert accepted > rejected / 10
