"""Speech corpora: folder layouts, preparation, features with masks, errors for missing corpora."""

import socket
import threading

import pytest
import torch

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig, GlobalConfig
from data_manager.errors import DataError
from data_manager.speech import download as corpus_download
from data_manager.speech.recipes import recipe_names, recipe_signature
from tests.data_manager.corpora import RATE, librispeech_part, timit, yesno
from tests.data_manager.speech_cases import config_of, load
from tests.real_data import real_data


@pytest.fixture
def offline(monkeypatch):
    """No server is reachable; checking it takes no time."""
    monkeypatch.setattr(corpus_download, "unreachable", lambda url: "no network")


@pytest.mark.parametrize("layout", ["librispeech/LibriSpeech", "librispeech", "LibriSpeech"])
def test_librispeech_parts_become_splits(tmp_path, layout):
    librispeech_part(tmp_path / "data" / layout, "dev-clean", {"A": 0.3, "B C": 0.5})
    librispeech_part(tmp_path / "data" / layout, "train-clean-5", {"D": 0.4})
    config = config_of(tmp_path)
    splits = load(config)
    assert {split: len(cuts) for split, cuts in splits.items()} == {"dev-clean": 2, "train-clean-5": 1}
    assert list((tmp_path / "manifests" / "librispeech").glob("*/recipe/librispeech_recordings_dev-clean.jsonl.gz"))


def test_speech_batch_shapes_and_masks(tmp_path):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.3, "B C": 0.5})
    config = config_of(tmp_path, features={"num_mel_bins": 40})
    (batch,) = DatasetManager.create_dataloader(load(config)["dev-clean"], config, batch_size=2)
    assert batch["features"].shape == (2, 50, 40)
    assert batch["features"].dtype == torch.float32
    assert batch["feature_mask"].sum(1).tolist() == [30, 50]
    assert batch["feature_mask"].dtype == torch.bool
    assert (batch["features"][0, 30:] == 0).all()
    assert batch["text"] == ["A", "B C"]
    (again,) = DatasetManager.create_dataloader(load(config)["dev-clean"], config, batch_size=2, num_workers=1)
    assert torch.equal(batch["features"], again["features"])


def test_fbank_features_match_lhotse(tmp_path):
    from lhotse import Fbank, FbankConfig

    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.5})
    config = DatasetConfig(name="librispeech", global_config=config_of(tmp_path).global_config)
    cuts = load(config)["dev-clean"]
    (batch,) = DatasetManager.create_dataloader(cuts, config, batch_size=1)
    expected = Fbank(FbankConfig(sampling_rate=RATE)).extract(cuts[0].load_audio(), RATE)
    torch.testing.assert_close(batch["features"][0], torch.as_tensor(expected))


def test_librispeech_prepares_only_requested_parts(tmp_path):
    for part in ("dev-clean", "test-clean"):
        librispeech_part(tmp_path / "data" / "librispeech", part, {"A": 0.2})
    assert list(load(config_of(tmp_path, process_params={"dataset_parts": ["test-clean"]}))) == ["test-clean"]
    assert list(load(config_of(tmp_path, process_params={"dataset_parts": "dev-clean"}))) == ["dev-clean"]
    lower = load(config_of(tmp_path, process_params={"dataset_parts": "auto", "normalize_text": "lower"}))
    assert lower["dev-clean"][0].supervisions[0].text == "a"


def test_yesno_recipe(tmp_path):
    yesno(tmp_path / "data" / "yesno" / "waves_yesno")
    config = config_of(tmp_path, name="yesno")
    splits = load(config)
    assert {split: len(cuts) for split, cuts in splits.items()} == {"test": 30, "train": 30}
    batch = next(iter(DatasetManager.create_dataloader(splits["train"], config, batch_size=3)))
    assert batch["features"].shape == (3, 10, 80)
    assert batch["text"][0] == "NO NO NO NO NO NO NO NO"


def test_timit_recipe(tmp_path):
    timit(tmp_path / "data" / "timit")
    config = config_of(tmp_path, name="timit", process_params={"num_phones": 39}, loading={"speakers": True})
    splits = load(config)
    assert {split: len(cuts) for split, cuts in splits.items()} == {"DEV": 1, "TEST": 1, "TRAIN": 2}
    batch = next(iter(DatasetManager.create_dataloader(splits["TEST"], config, batch_size=3)))
    assert batch["features"].shape == (1, 50, 80)
    assert batch["text"] == ["She had greasy water."]
    assert batch["speakers"] == [["FDHC0"]]
    phones = [item.symbol for item in splits["TEST"][0].supervisions[0].alignment["phone"]]
    assert phones == ["sil", "sh", "iy", "ah"]


@pytest.mark.parametrize("name", recipe_names())
def test_missing_corpus_error_names_folder_for_every_recipe(tmp_path, offline, monkeypatch, name):
    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr("socket.getaddrinfo", refuse)  # two recipes download metadata during preparation,
    monkeypatch.chdir(tmp_path)  # into the working directory
    recipe = recipe_signature(name)
    required = [key for key in recipe.prepare.required() if key not in (recipe.root, "output_dir", "num_jobs")]
    absent = dict.fromkeys(required, "/absent")
    own = {key: [path] if "List" in recipe.prepare.annotations[key] else path for key, path in absent.items()}
    with pytest.raises(DataError) as caught:
        load(config_of(tmp_path, name=name, process_params=own))
    assert str(tmp_path / "data" / name) in str(caught.value) or f"{recipe.prepare.name}(" in str(caught.value)


def test_missing_corpus_error(tmp_path, offline):
    with pytest.raises(DataError) as caught:
        load(config_of(tmp_path))
    data = tmp_path / "data"
    assert str(caught.value) == (
        f"corpus 'librispeech' is not there; looked for\n  {data / 'librispeech' / 'LibriSpeech'}\n"
        f"  {data / 'librispeech'}\n  {data / 'LibriSpeech'}\n"
        "and it cannot be downloaded from http://www.openslr.org/resources (no network).\n"
        "Put it into one of these folders, set global_config.corpus_dir to its parent folder, or run on a "
        "machine that can download it."
    )


def test_missing_licensed_corpus_error(tmp_path):
    with pytest.raises(DataError, match="lhotse cannot download it: it is licensed"):
        load(config_of(tmp_path, name="nsc"))


def test_missing_parts_error_lists_existing_parts(tmp_path, offline):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.2})
    with pytest.raises(DataError) as caught:
        load(config_of(tmp_path, process_params={"dataset_parts": ["dev-clean", "test-clean"]}))
    assert "lacks the parts test-clean (it has dev-clean)" in str(caught.value)
    assert "To use only the existing parts, write process_params: {dataset_parts: [dev-clean]}." in str(caught.value)
    with pytest.raises(DataError, match=r"has no part 'dev-claen'; its parts are dev-clean-2"):
        load(config_of(tmp_path, process_params={"dataset_parts": "dev-claen"}))


def test_force_download_offline_error(tmp_path, offline):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.2})
    with pytest.raises(DataError, match=r"Set global_config\.force_download to false to use "):
        load(config_of(tmp_path, shared={"force_download": True}))


def test_missing_corpus_is_downloaded_with_given_params(tmp_path, monkeypatch):
    calls = []

    def download(corpus, recipe, function, arguments, notes):
        calls.append((function.name, arguments))
        librispeech_part(tmp_path / "data" / "librispeech" / "LibriSpeech", "dev-clean-2", {"A": 0.2})

    monkeypatch.setattr(corpus_download, "unreachable", lambda url: None)
    monkeypatch.setattr("data_manager.speech.download.call_recipe", download)
    config = config_of(tmp_path, download_params={"dataset_parts": "dev-clean-2"})
    assert list(load(config)) == ["dev-clean-2"]
    target = str(tmp_path / "data" / "librispeech")
    expected = {"dataset_parts": ["dev-clean-2"], "target_dir": target, "force_download": False}
    assert calls == [("download_librispeech", expected)]


def test_recipes_are_silent_on_stdout(tmp_path, capfd):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.2})
    load(config_of(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_speech_real_utterance(tmp_path):
    shared = GlobalConfig(corpus_dir=real_data("librispeech").parent, output_dir=tmp_path)
    config = DatasetConfig(name="librispeech", global_config=shared)
    splits = load(config)
    assert list(splits) == ["dev-clean"]
    (batch,) = DatasetManager.create_dataloader(splits["dev-clean"], config, batch_size=4)
    assert batch["features"].shape == (1, 1166, 80)
    assert batch["text"][0].startswith("IF THE READER WILL EXCUSE ME")


def test_unreachable_addresses():
    from data_manager.text.hub import unreachable

    assert unreachable("http://192.0.2.1/x") is not None  # reserved for documentation, RFC 5737
    assert unreachable("http://127.0.0.1:9/x") is not None
    assert unreachable("not an address") is not None


def test_unreachable_after_dns_timeout(monkeypatch):
    from data_manager.text import hub

    never, real = threading.Event(), socket.socket
    monkeypatch.setattr(hub.socket, "create_connection", lambda *given, **more: never.wait() and real())
    assert hub.TIMEOUT < 2
    monkeypatch.setattr(hub, "TIMEOUT", 0.01)
    try:
        assert hub.unreachable("http://somewhere/x") == "no answer within 2 s"
    finally:
        never.set()


def test_reachable_server(monkeypatch):
    import socket

    from data_manager.text.hub import unreachable

    monkeypatch.setattr("data_manager.text.hub.TIMEOUT", 3600)  # the machine may be busy

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert unreachable(f"http://127.0.0.1:{server.getsockname()[1]}/x") is None
