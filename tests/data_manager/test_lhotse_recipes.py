"""lhotse recipe signatures parsed from source, compared with the imported functions."""

import inspect
from importlib import import_module

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.speech.recipes import recipe_names, recipe_signature
from model_factory.yaml_config.registry import UnknownNameError


def test_all_recipes_of_lhotse_are_known():
    import lhotse.recipes
    from lhotse.bin.modes import cli

    exported = {name.removeprefix("prepare_") for name in dir(lhotse.recipes) if name.startswith("prepare_")}
    commands = {name.replace("-", "_") for name in cli.commands["prepare"].commands}
    known = commands | (exported - {"single_babel_language"}) | {"voxceleb1", "voxceleb2"}
    assert set(recipe_names()) == known
    assert {"primewords", "aishell2", "aidatatang_200zh", "audio_mnist", "emilia"} <= commands


def test_recipe_signatures_match_inspect():
    for name in recipe_names():
        signature = recipe_signature(name)
        module = import_module(f"lhotse.recipes.{signature.module}")
        for read in filter(None, (signature.prepare, signature.download)):
            real = inspect.signature(getattr(module, read.name)).parameters
            required = {key: parameter.default is inspect.Parameter.empty for key, parameter in real.items()}
            assert read.parameters == required, (name, read.name)


def test_parts_of_a_corpus_are_downloaded_apart():
    whole = recipe_signature("voxceleb")
    assert (whole.download, whole.parts, whole.can_download) == (None, ("voxceleb1", "voxceleb2"), True)
    parts = [recipe_signature(part) for part in whole.parts]
    assert [(part.root, part.download.name) for part in parts] == [
        ("voxceleb1_root", "download_voxceleb1"),
        ("voxceleb2_root", "download_voxceleb2"),
    ]
    assert not recipe_signature("aishell2").can_download


def test_downloaders_that_use_the_hub():
    hub = {name for name in recipe_names() if recipe_signature(name).uses_hub and recipe_signature(name).download}
    assert hub == {"fleurs", "notsofar1", "oto_speech", "reazonspeech"}


def test_list_available_datasets():
    names = DatasetManager.list_available_datasets()
    assert len(names) == len(set(names)) > 90
    assert {"librispeech", "timit", "yesno", "librittsr", "babel"} <= set(names)


def test_recipe_download_urls():
    assert recipe_signature("librispeech").url == "http://www.openslr.org/resources"
    assert recipe_signature("yesno").url == "http://www.openslr.org/resources/1/waves_yesno.tar.gz"
    assert recipe_signature("nsc").download is None


def test_recipe_root_parameters():
    roots = {name: recipe_signature(name).root for name in ("librispeech", "ami", "tedlium", "heroico")}
    assert roots == {"librispeech": "corpus_dir", "ami": "data_dir", "tedlium": "tedlium_root", "heroico": None}


def test_unknown_recipe_suggests_closest_name():
    with pytest.raises(UnknownNameError, match="unknown lhotse corpus 'timti'; did you mean 'timit'"):
        recipe_signature("timti")
