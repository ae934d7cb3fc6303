"""Speech tasks: front end, SpecAugment, CTC and diarization losses, WER and DER, training runs to a WER of 0."""

import json
from itertools import permutations

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.two_speakers import write_corpus
from data_manager.tokenizers.simple import CharacterTokenizer
from model_factory.cli.evaluate import main as evaluate
from model_factory.diffusion.randomness import RowGenerators
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.task_registry import choose_task
from model_factory.experiment.training_types import SpecAugmentConfig, SpeechTaskConfig
from model_factory.training.tasks.base import TaskSetting
from model_factory.training.tasks.diarization import permutation_free_loss
from model_factory.training.tasks.speech_front import Subsampling, normalise_features, spec_augment
from model_factory.training.tasks.speech_metrics import character_errors, speaker_errors, word_errors
from model_factory.training.tasks.speech_recognition import SpeechRecognition
from model_factory.yaml_config.dump import dump
from tests.data_manager.corpora import RATE
from tests.real_data import FOLDER
from tests.training.runs import losses, train

ENCODER = {"num_layers": 2, "num_heads": 4, "dropout": 0.0, "input_dim": 80, "device": "cpu"}


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_subsampling_is_independent_of_padding(factor):
    torch.manual_seed(0)
    front = Subsampling(10, 6, SpeechTaskConfig(subsampling=factor, channels=3))
    features = torch.randn(2, 23, 10)
    mask = torch.arange(23) < torch.tensor([[23], [13]])
    whole, kept = front(normalise_features(features, mask), mask)
    alone, _ = front(normalise_features(features[1:, :13], None), None)
    assert kept.sum(1).tolist() == [-(-23 // factor), -(-13 // factor)] == [whole.shape[1], alone.shape[1]]
    assert torch.allclose(whole[1, : alone.shape[1]], alone[0], atol=1e-5)


def test_features_are_normalised_per_utterance():
    features = torch.randn(2, 50, 4) * 3 + 7
    mask = torch.arange(50) < torch.tensor([[50], [20]])
    found = normalise_features(features, mask)
    assert torch.allclose(found[1, :20].mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(found[1, :20].std(0, correction=0), torch.ones(4), atol=1e-3)
    assert not found[1, 20:].any()


def test_spec_augment_masks_frequency_and_time():
    settings = SpecAugmentConfig(frequency_width=5, time_width=8, time_share=0.5)
    features, mask = torch.ones(64, 40, 20), torch.arange(40) < torch.tensor([[40]] * 32 + [[10]] * 32)
    noise = RowGenerators.from_seed(3, torch.arange(64))
    hidden = spec_augment(features, mask, settings, noise) == 0
    bands, spans = hidden.all(1), hidden.all(2)
    assert torch.equal(hidden, bands.unsqueeze(1) | spans.unsqueeze(2))
    assert 0 < bands.sum(1).max() <= 10  # two masks of up to 5 bins
    assert 0 < spans[:32].sum(1).max() <= 16
    assert spans[32:].sum(1).max() <= 10  # half of 10 frames, twice
    assert not spans[32:, 10:].any()
    assert bands.sum(1).float().mean() == pytest.approx(2 * 2.5, abs=0.9)
    part = spec_augment(features[5:7], mask[5:7], settings, RowGenerators.from_seed(3, torch.arange(5, 7)))
    assert torch.equal(part == 0, hidden[5:7])  # the masks of a row do not depend on the other rows


def test_ctc_greedy_decoding_merges_repeats_and_blanks():
    tokenizer = CharacterTokenizer("abc")
    task = SpeechRecognition(TaskSetting(ExperimentConfig(), tokenizer))
    a, b = tokenizer.encode("ab")
    path = torch.tensor([[0, a, a, 0, a, b, b, 0, b], [b, 0, 0, 0, 0, 0, 0, 0, 0]])
    logits = torch.nn.functional.one_hot(path, tokenizer.vocab_size).float()
    assert task.transcripts(logits, torch.tensor([8, 9])) == ["aab", "b"]


def test_word_and_character_errors():
    assert word_errors("a b c", "a x c d") == (2, 3)
    assert word_errors("", "a") == (1, 0)
    assert word_errors("a b", "") == (2, 2)
    assert character_errors("ab", "axb") == (1, 2)


def test_diarization_errors_of_small_example():
    reference = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]]).bool().T
    hypothesis = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0]]).bool().T
    found = speaker_errors(reference, hypothesis)  # hypothesis 2 is reference 1: 3 + 3 frames are correct
    assert (found.missed, found.false_alarm, found.confusion, found.speech) == (2, 1, 0, 8)
    swapped = speaker_errors(reference, reference.flip(1))
    assert swapped.errors == 0
    assert speaker_errors(reference, torch.zeros_like(reference)).missed == 8
    one = speaker_errors(torch.ones(4, 1).bool(), torch.tensor([[1, 0], [1, 0], [0, 1], [1, 0]]).bool())
    assert (one.confusion, one.errors, one.speech) == (1, 1, 4)


def test_permutation_free_loss_is_minimum_over_permutations():
    torch.manual_seed(0)
    logits, activity = torch.randn(5, 7, 3), torch.rand(5, 7, 3) > 0.5
    real = torch.arange(7) < torch.tensor([7, 7, 4, 1, 3])[:, None]
    found = permutation_free_loss(logits, activity, real)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    for row in range(5):
        kept = real[row]
        costs = [
            float(bce(logits[row, kept], activity[row, kept][:, list(order)].float(), reduction="sum")) / 3
            for order in permutations(range(3))
        ]
        assert float(found[row]) == pytest.approx(min(costs), rel=1e-5)
    assert torch.allclose(permutation_free_loss(logits[..., [2, 0, 1]], activity, real), found)


def test_speech_task_is_chosen_by_columns():
    assert choose_task("encoder", ["features", "text"]) == "speech_recognition"
    assert choose_task("encoder", ["features"]) == "diarization"


def experiment(folder, model, corpora, entry, **training):
    content = {
        "model": {"model_type": "encoder", "name": "listener", "encoder": {**ENCODER, **model}},
        "global_config": {"corpus_dir": str(corpora), "output_dir": str(folder / "manifests")},
        "datasets": [entry],
        "training": {"logging_steps": 10, **training},
    }
    path = folder / "experiment.yml"
    path.write_text(dump(content))
    return path


def tones(folder):
    """Write an utterance whose words are tones, as a corpus in LibriSpeech's layout."""
    pitches = {"do": 300, "re": 600, "mi": 1200}
    words = ["do", "re", "mi", "re", "do", "mi"]
    time = np.arange(int(0.4 * RATE)) / RATE
    sound = np.concatenate([0.3 * np.sin(2 * np.pi * pitches[word] * time) * np.hanning(len(time)) for word in words])
    chapter = folder / "librispeech" / "LibriSpeech" / "dev-clean" / "84" / "1"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-1-0000.flac", sound + np.random.default_rng(0).normal(0, 0.001, len(sound)), RATE)
    (chapter / "84-1.trans.txt").write_text(f"84-1-0000 {' '.join(words).upper()}\n")
    return folder


@pytest.mark.parametrize("kind", ["real", "tones"])
def test_speech_recognition_overfits_to_zero_wer(kind, tmp_path, capsys):
    if kind == "real" and not (FOLDER / "librispeech").is_dir():
        pytest.skip("needs the corpus librispeech in ../shared/data, beside the repository")
    corpora = FOLDER if kind == "real" else tones(tmp_path)
    entry = {
        "name": "librispeech",
        "process_params": {"dataset_parts": ["dev-clean"]},
        "features": {"storage": "numpy"},
        "tokenizer": {"type": "characters"},
    }
    split = {"train_split": "dev-clean", "eval_split": "dev-clean"}
    steps = {"max_steps": 170, "eval_steps": 85, "save_steps": 200, "batch_size": 1}
    rate = {"learning_rate": 3e-3, "lr_scheduler_type": "cosine", "warmup_steps": 5}
    speech = {"channels": 16, "spec_augment": None if kind == "real" else {"time_width": 3}}
    width = {"d_model": 64}
    path = experiment(tmp_path, width, corpora, entry, speech=speech, **split, **steps, **rate)
    log = tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0, log.read_text()
    assert losses(tmp_path / "run", "eval_wer")[steps["max_steps"]] == 0
    assert evaluate(["--run", str(tmp_path / "run"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(figure["name"], figure["value"]) for figure in report["figures"]] == [("wer", 0), ("cer", 0)]
    assert (
        report["examples"][0].split("\nheard      ")[0]
        == "reference  " + report["examples"][0].split("\nheard      ")[1]
    )


def test_diarization_separates_two_voices(tmp_path, capsys):
    write_corpus(tmp_path / "voxconverse", 8, 3.0, seed=0)
    entry = {
        "name": "voxconverse",
        "features": {"num_mel_bins": 40, "storage": "numpy"},
        "loading": {"speakers": True},
    }
    split = {"train_split": "dev", "eval_split": "dev"}
    steps = {"max_steps": 60, "eval_steps": 60, "save_steps": 60, "batch_size": 8, "learning_rate": 3e-3}
    speech = {"channels": 8, "spec_augment": {"time_width": 5, "frequency_width": 5}}
    changes = {"speech": speech, "task": "diarization", **split, **steps}
    path = experiment(tmp_path, {"d_model": 32, "input_dim": 40}, tmp_path, entry, **changes)
    log = tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0, log.read_text()
    assert losses(tmp_path / "run", "eval_der")[60] < 0.2
    assert "prediction " in (tmp_path / "run" / "samples.txt").read_text()
    assert evaluate(["--run", str(tmp_path / "run"), "--split", "dev", "--json"]) == 0
    figures = {figure["name"]: figure for figure in json.loads(capsys.readouterr().out)["figures"]}
    parts = sum(figures[name]["value"] for name in ("missed", "false_alarm", "confusion"))
    assert figures["der"]["value"] == pytest.approx(parts)
    assert figures["der"]["low"] <= figures["der"]["value"] < 0.2
    assert (figures["der"]["n"], figures["der"]["of"]) == (8, "recordings")


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        ({"tokenizer": None}, {}, "has no tokenizer"),
        ({"tokenizer": {"type": "characters"}}, {"task": "diarization"}, "diarization writes no text"),
        ({"tokenizer": None}, {"task": "diarization"}, "loading: {speakers: true}"),
    ],
)
def test_speech_task_refuses_unfit_data(entry, changes, message, tmp_path):
    common = {"name": "librispeech", "process_params": {"dataset_parts": ["dev-clean"]}}
    path = experiment(
        tmp_path, {"d_model": 8}, tones(tmp_path), {**common, **entry}, train_split="dev-clean", **changes
    )
    log = tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 1
    assert message in log.read_text()
