"""Corpora downloaded by lhotse's own downloaders, with only the network replaced, and corpora unpacked by hand."""

import multiprocessing
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from data_manager.errors import DataError
from data_manager.speech import download
from data_manager.speech.corpus import get_speech_corpus
from data_manager.speech.manifests import split_cuts
from data_manager.speech.recipes import recipe_signature
from tests.data_manager.archives import CORPORA, SOUND_BYTES, FakeCorpus, pack
from tests.data_manager.speech_cases import config_of, load


@pytest.fixture
def network(monkeypatch, tmp_path):
    """Function that serves the archives of a corpus in place of lhotse's `resumable_download`."""
    monkeypatch.setattr(download, "unreachable", lambda url: None)
    monkeypatch.chdir(tmp_path)  # the recipe of voxceleb downloads a list into the working directory

    def serve(name: str, corpus: FakeCorpus) -> None:
        def fetch(url: str, filename: Path, **_: object) -> None:
            asked = (Path(filename).name, url.rsplit("/", 1)[-1])
            found = next((archive for archive in corpus.archives if archive in asked), None)
            if found is None:
                (found,) = corpus.archives  # the downloader has another name for its only archive
            Path(filename).write_bytes(pack(found, corpus.archives[found]))

        module = import_module(f"lhotse.recipes.{recipe_signature(name).module}")
        monkeypatch.setattr(module, "resumable_download", fetch)
        if name == "commonvoice":  # it would start an interpreter for each split, which takes seconds
            monkeypatch.setattr(module, "mp_get_context", lambda _: multiprocessing.get_context("fork"))

    return serve


def seen(splits):
    """Return the cuts of each split as (id, duration, texts and speakers)."""
    return {
        split: sorted((cut.id, cut.duration, *((s.text, s.speaker) for s in cut.supervisions)) for cut in cuts)
        for split, cuts in splits.items()
    }


def prepared_by_lhotse(name: str, corpus: FakeCorpus, target: Path):
    """Return what lhotse's own `prepare(download(...))` gives, without this project's code but for `split_cuts`."""
    recipe = recipe_signature(name)
    module = import_module(f"lhotse.recipes.{recipe.module}")
    root = getattr(module, recipe.download.name)(
        **{next(iter(recipe.download.parameters.keys() & {"target_dir", "corpus_dir"})): target}, **corpus.download
    )
    folder = target / corpus.prepared if corpus.prepared is not None else root
    (target / "manifests").mkdir()
    shared = {key: value for key, value in corpus.download.items() if key in recipe.prepare.parameters}
    made = getattr(module, recipe.prepare.name)(
        **{recipe.root: folder, "output_dir": target / "manifests"}, **shared, **corpus.process
    )
    return dict(split_cuts(made, []))


def config_for(name, corpus, folder):
    return config_of(folder, name=name, download_params=corpus.download, process_params=corpus.process)


@pytest.mark.parametrize("name", CORPORA)
def test_download_prepares_what_lhotse_prepares(name, network, tmp_path):
    corpus = CORPORA[name]
    network(name, corpus)
    assert all(len(pack(path, members)) < 1_000_000 for path, members in corpus.archives.items())
    found = seen(load(config_for(name, corpus, tmp_path)))
    assert found == seen(prepared_by_lhotse(name, corpus, tmp_path / "lhotse"))
    assert sum(map(len, found.values())) > 0


def _remove_marks(folder: Path) -> None:
    for mark in [*folder.rglob(".completed"), *folder.rglob(".*_completed"), *folder.rglob(".unpacked")]:
        mark.unlink()


@pytest.mark.parametrize("name", CORPORA)
def test_corpus_without_marks_is_found(name, network, tmp_path, monkeypatch):
    corpus = CORPORA[name]
    network(name, corpus)
    config = config_for(name, corpus, tmp_path)
    before = seen(load(config))
    _remove_marks(tmp_path / "data")
    monkeypatch.setattr(download, "unreachable", lambda url: "no network")
    shutil.rmtree(tmp_path / "manifests")
    again = config.model_copy(
        update={"global_config": config.global_config.model_copy(update={"output_dir": str(tmp_path / "again")})}
    )
    assert seen(load(again)) == before


@pytest.mark.parametrize("name", ["ljspeech", "musan", "rir_noise", "wham", "vctk", "cmu_arctic"])
@pytest.mark.parametrize("parent", ["", "original/archive"])
def test_corpus_unpacked_by_hand_is_found(name, parent, tmp_path, monkeypatch):
    """The members of the archives, without the folder that is named after the archive or below folders of a user."""
    monkeypatch.setattr(download, "unreachable", lambda url: "no network")
    corpus = CORPORA[name]
    folder = tmp_path / "data" / name / parent
    for archive, members in corpus.archives.items():
        for path, content in members.items():
            inner = path if name == "cmu_arctic" else path.partition("/")[2]
            (folder / inner).parent.mkdir(parents=True, exist_ok=True)
            (folder / inner).write_bytes(pack("a.wav", content) if isinstance(content, str) else SOUND_BYTES)
        (tmp_path / "data" / name / archive).touch()
    assert sum(map(len, load(config_of(tmp_path, name=name)).values())) >= 2 - (name == "vctk")


def test_all_speakers_are_prepared_though_each_is_marked(network, tmp_path):
    network("cmu_arctic", CORPORA["cmu_arctic"])
    config = config_for("cmu_arctic", CORPORA["cmu_arctic"], tmp_path)
    (cuts,) = load(config).values()
    assert {cut.supervisions[0].speaker for cut in cuts} == {"aew", "ahw", "bdl"}


def test_broken_file_does_not_lead_to_a_part_of_the_corpus(network, tmp_path):
    network("cmu_arctic", CORPORA["cmu_arctic"])
    config = config_for("cmu_arctic", CORPORA["cmu_arctic"], tmp_path)
    load(config)
    next((tmp_path / "data").rglob("*bdl*/wav/*.wav")).write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"bdl_arctic/wav/arctic_a0001\.wav"):
        load(config)


def test_both_parts_of_voxceleb_are_prepared(network, tmp_path):
    network("voxceleb1", CORPORA["voxceleb1"])
    alone = seen(load(config_of(tmp_path, name="voxceleb1")))
    whole = config_of(tmp_path, name="voxceleb")
    assert seen(load(whole)) == alone
    assert any("voxceleb2 is not in" in note for note in get_speech_corpus(whole).notes)


def test_output_folder_of_a_recipe_exists(network, tmp_path):
    """cmu_arctic writes its manifests and does not create the folder."""
    network("cmu_arctic", CORPORA["cmu_arctic"])
    load(config_for("cmu_arctic", CORPORA["cmu_arctic"], tmp_path))
    assert len(list((tmp_path / "manifests" / "cmu_arctic").glob("*/recipe/*.jsonl.gz"))) == 2


def test_downloader_without_a_download_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "unreachable", lambda url: None)
    with pytest.raises(
        DataError, match="downloader finished, but the corpus is not there: Downloading Earnings22 from"
    ):
        load(config_of(tmp_path, name="earnings22"))


def test_hub_recipe_reports_no_network_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"cannot be downloaded from https://huggingface\.co \(.*HF_HUB_OFFLINE\)"):
        load(config_of(tmp_path, name="fleurs"))


def test_libritts_prepares_the_parts_on_disk(network, tmp_path):
    network("libritts", CORPORA["libritts"])
    before = load(config_for("libritts", CORPORA["libritts"], tmp_path))
    assert seen(load(config_of(tmp_path, name="libritts"))) == seen(before)
    assert list(before) == ["dev-clean"]
