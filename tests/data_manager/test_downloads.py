"""Corpora downloaded by lhotse's own downloaders, with only the network replaced, and corpora unpacked by hand."""

import shutil
from importlib import import_module
from pathlib import Path

import pytest

from data_manager.errors import DataError
from data_manager.speech import download
from data_manager.speech.corpus import get_speech_corpus
from data_manager.speech.manifests import split_cuts
from data_manager.speech.recipes import recipe_signature
from tests.data_manager.archives import CORPORA, SOUND, FakeCorpus, pack
from tests.data_manager.speech_cases import config_of, load


@pytest.fixture
def network(monkeypatch):
    """Function that serves the archives of a corpus in place of lhotse's `resumable_download`."""
    monkeypatch.setattr(download, "unreachable", lambda url: None)

    def serve(name: str, corpus: FakeCorpus) -> None:
        def fetch(url: str, filename: Path, **_: object) -> None:
            asked = (Path(filename).name, url.rsplit("/", 1)[-1])
            found = next((archive for archive in corpus.archives if archive in asked), None)
            if found is None:
                (found,) = corpus.archives  # the downloader has another name for its only archive
            Path(filename).write_bytes(pack(found, corpus.archives[found]))

        module = import_module(f"lhotse.recipes.{recipe_signature(name).module}")
        monkeypatch.setattr(module, "resumable_download", fetch)

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
    root = getattr(module, recipe.download.name)(**{next(iter(recipe.download.parameters.keys() & {"target_dir", "corpus_dir"})): target}, **corpus.download)
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
