"""Random experiment files, and tiny data that fit them, for `test_accepted_files_train`."""

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.training.test_pretrained import pretrained
from tests.training.test_speech_tasks import tones

WORDS = ("a", "bc", "def", "ghij", "klmno", "pq", "rs", "tuv")
MOLECULES = ("C", "CC", "CCO", "c1ccccc1", "CC(=O)O", "N#N", "C1CC1", "OC(Cl)Br")

Section = dict[str, Any]


class Files:
    """Draw experiments from a seed; most of their settings are valid, and combinations are left to chance."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.family = self.random.choice(("bert", "gpt2"))

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
        kinds = ("encoder", "decoder", "encoder_decoder", "diffusion", "diffusion", "latent_diffusion")
        kind = self.random.choice(kinds)
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
            {
                "absorbing": ("mdlm", "sedd", "d3pm", "gidd", "bd3lm", "flexmdm"),
                "uniform": ("udlm", "sedd", "gidd"),
            }.get(process, ("gidd", "sedd"))
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
                    **self.some(0.3, max_length=(8, 64), time_injection=("input", "output"), position=("absolute",)),
                },
                {"type": "hugging_face", "path": str(self.folder / self.family), "device": "cpu"},
            )
        )
        conditions = (
            *({"type": "class", "num_classes": number} for number in (2, 3)),
            *({"type": "properties", "size": number} for number in (1, 2)),
            {"type": "properties", "size": 2, "mean": [0.0, 1.0], "std": [1.0, 2.0]},
        )
        condition = self.random.choice(conditions) if self.chance(0.3) else None
        return {
            **self.some(0.1, vocab_size=(40, 300), length=(8, 16), time_conditioning=(True, False)),
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
            "denoiser": self.random.choice(
                (
                    {"type": "mlp", "width": 8, "num_layers": 2},
                    {"type": "transformer", "d_model": 8, "num_tokens": 2, "num_layers": 1, "num_heads": 2},
                    {"type": "performer", "d_model": 8, "num_tokens": 2, "num_layers": 1, "num_heads": 2},
                    {"type": "linear"},
                    {"type": "residual"},
                )
            ),
            **({"condition": {"type": "properties", "size": 1}} if self.chance(0.1) else {}),
            "diffusion": {"num_steps": 4},
        }

    def datasets(self) -> list[Section]:
        """Draw one data set, a mixture with its parts, or now and then two data sets."""
        if self.chance(0.15):
            parts = [self.dataset("data-one"), self.dataset("data-two")]
            mixture = {"name": "data-mixture", "source": "mixture", "datasets": {"data-one": 0.7, "data-two": 1}}
            mixture |= self.some(0.3, stop=("all_exhausted",), rows=("whole", "packed", "cut"))
            if mixture.get("rows") == "whole":
                mixture["too_long"] = "cut"
            return [*parts, mixture | self.some(0.6, sequence_length=(8, 16), tokenizer=self.tokenizers())]
        return [self.dataset(f"data-{number}") for number in range(2 if self.chance(0.05) else 1)]

    def tokenizers(self) -> tuple[Section, ...]:
        return (
            {"type": "characters"},
            {"type": "bytes"},
            {"type": "bpe", "vocab_size": 270},
            {"type": "hugging_face", "path": str(self.folder / self.family)},
        )

    def dataset(self, name: str) -> Section:
        if self.chance(0.15):
            return self.speech()
        kind = self.random.choice(("lines", "lines", "file", "pairs", "classes", "classes", "molecules", "molecules"))
        splits = ("train", "validation") if self.chance(0.7) else ("train",)
        source = {"classes": "csv", "molecules": "smiles"}.get(kind, "text")
        entry: Section = {"name": f"{name}-{kind}" if name == "data-0" else name, "source": source}
        files = {"classes": "rows.csv", "molecules": "molecules.csv"}
        if kind == "pairs":
            pair = {"source": str(self.folder / "lines.txt"), "target": str(self.folder / "back.txt")}
            entry["data_files"] = dict.fromkeys(splits, pair)
        else:
            entry["data_files"] = dict.fromkeys(splits, str(self.folder / files.get(kind, "lines.txt")))
        if kind == "classes":
            entry |= {"label": "kind", **self.some(0.5, classes=(["x", "y", "z"],))}
            if "classes" not in entry:
                entry["label"] = "number"
        if kind == "lines":
            entry |= {"documents": "line", **self.some(0.7, rows=("whole", "packed", "cut"))}
        if kind == "molecules":
            entry |= self.molecules()
        entry |= self.some(0.6, sequence_length=(8, 16, 32))
        if self.chance(0.05):  # shorter than the documents, which a whole row must then leave out or cut
            entry["sequence_length"] = self.random.choice((1, 2, 3))
            entry |= {"too_long": self.random.choice(("cut", "skip"))} if self.is_whole(entry) else {}
        entry |= self.some(0.05, streaming=(True,), bucketing=(True,))
        entry |= self.some(0.03, document_ids=(True,), position_ids=(True,))
        kinds = (*self.tokenizers(), {"type": "smiles"}) if kind == "molecules" else self.tokenizers()
        return entry | self.some(0.6, tokenizer=kinds)

    def molecules(self) -> Section:
        chemistry = {"properties": (["logp"], ["weight", "qed"]), "canonical": (True,)} if find_spec("rdkit") else {}
        return {
            "column": "smiles",
            "too_long": "cut",  # lengths of molecules are known only from the data
            **self.some(0.3, measured=(["first"], ["first", "second"]), drop_duplicates=(True,), **chemistry),
            **self.some(0.05, rows=("packed",)),
        }

    def speech(self) -> Section:
        """Draw a corpus of one recording, which `tests.training.test_speech_tasks.tones` writes."""
        return {
            "name": "librispeech",
            "process_params": {"dataset_parts": ["dev-clean"]},
            "features": {"storage": "numpy", **self.some(0.5, num_mel_bins=(8, 80))},
            **self.some(0.7, tokenizer=({"type": "characters"}, {"type": "bytes"})),
        }

    @staticmethod
    def is_whole(entry: Section) -> bool:
        return (
            "label" in entry or entry.get("rows") == "whole" or "pairs" in entry["name"] or entry["source"] == "smiles"
        )

    def training(self, datasets: list[Section]) -> Section:
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
            **self.lora(),
            **self.some(0.03, speech=({"subsampling": 2},), fp16=(True,), task=("diffusion", "translation")),
            **self.splits(datasets),
        }

    def splits(self, datasets: list[Section]) -> Section:
        """Name the data set where there are several, and the splits of a corpus."""
        chosen = datasets[-1]
        part = {"train_split": "dev-clean", "eval_split": "dev-clean"} if chosen["name"] == "librispeech" else {}
        return part | ({"dataset": chosen["name"]} if len(datasets) > 1 and self.chance(0.9) else {})

    def lora(self) -> Section:
        if not find_spec("peft") or not self.chance(0.2):
            return {}
        names = (["to_q", "to_v"], ["nothing"], ["query"], ["head"])
        return {"lora": {"r": 2, **self.some(0.3, lora_dropout=(0.1,), target_modules=names)}}

    def generation(self) -> Section:
        return {
            "num_samples": 1,
            "max_new_tokens": 2,
            **self.some(0.1, num_beams=(2,), top_k=(3,), top_p=(0.5,), temperature=(0.0, 0.7), steps=(2,)),
        }

    def experiment(self) -> Section:
        """Draw a whole file."""
        model, datasets = self.model(), self.datasets()
        if model.get("backbone", {}).get("type") == "hugging_face" and self.chance(0.8):  # its vocabulary is its own
            datasets[-1]["tokenizer"] = self.tokenizers()[-1]
        shared = {"output_dir": str(self.folder / "prepared"), "corpus_dir": str(self.folder / "corpora")}
        if "sequence_length" not in datasets[-1]:  # lengths of recordings and lines are known only from the data
            for part in ("encoder", "decoder", "backbone"):
                model.get(part, {}).pop("max_length", None)
        return {
            "model": model,
            "global_config": shared,
            "datasets": datasets,
            "training": self.training(datasets),
            "generation": self.generation(),
        }


def write_data(folder: Path) -> None:
    """Write lines of a few characters, the same backwards, rows with a class, molecules, speech and pretrained models."""
    (folder / "lines.txt").write_text("".join(f"{word}\n" for word in WORDS * 6))
    (folder / "back.txt").write_text("".join(f"{word[::-1]}\n" for word in WORDS * 6))
    rows = "".join(f"{word},{'xyz'[i % 3]},{i % 3}\n" for i, word in enumerate(WORDS * 6))
    (folder / "rows.csv").write_text("text,kind,number\n" + rows)
    molecules = "".join(f"{smiles},{i / 7},{i % 2}\n" for i, smiles in enumerate(MOLECULES * 3))
    (folder / "molecules.csv").write_text("smiles,first,second\n" + molecules)
    for family in ("bert", "gpt2"):
        pretrained(folder / family, family)
    tones(folder / "corpora")
