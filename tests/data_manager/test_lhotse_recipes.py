"""lhotse recipe signatures parsed from source, compared with the imported functions."""

import inspect

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.speech.recipes import recipe_names, recipe_signature
from model_factory.yaml_config.registry import UnknownNameError

IRREGULAR = {"babel": "prepare_single_babel_language"}


def test_recipe_signatures_match_inspect():
    import lhotse.recipes

    exported = {name for name in dir(lhotse.recipes) if name.startswith("prepare_")}
    assert {recipe_signature(name).prepare.name for name in recipe_names()} == exported
    for name in recipe_names():
        signature = recipe_signature(name)
        for read in filter(None, (signature.prepare, signature.download)):
            module = inspect.getmodule(getattr(lhotse.recipes, signature.prepare.name))
            real = inspect.signature(getattr(module, read.name)).parameters
            required = {key: parameter.default is inspect.Parameter.empty for key, parameter in real.items()}
            assert read.parameters == required, (name, read.name)


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
