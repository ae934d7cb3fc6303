"""Config types of the data sections: valid and invalid values, and the cost of importing them."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_manager.dataset_types import DatasetConfig, GlobalConfig, TokenizerConfig
from data_manager.speech.recipes import recipe_names
from data_manager.speech.types import LhotseDatasetConfig
from data_manager.text.types import EmbeddedDatasetConfig, PairFiles, TextDatasetConfig

HEAVY = ("torch", "datasets", "lhotse", "transformers", "numpy")


def violations(config_type, **values):
    """All violations of a config that is not refused at once."""
    config = config_type.model_validate(values, context={"defer_relations": True})
    return [(violation.at, violation.message, violation.suggestion) for violation in config.violations()]


def test_dataset_without_source_is_a_speech_corpus():
    config = DatasetConfig(name="librispeech")
    assert (config.source, config.global_config) == ("lhotse", GlobalConfig())
    assert GlobalConfig() == GlobalConfig(corpus_dir="./data", output_dir="./manifests", force_download=False)


def test_unknown_corpus_suggests_name_and_local_files():
    assert violations(LhotseDatasetConfig, name="librispeach") == [
        (
            ("name",),
            f"lhotse has no recipe for a corpus 'librispeach' (one of its {len(recipe_names())} is librispeech)",
            "did you mean 'librispeech'? For custom files write source: text and data_files",
        )
    ]
    with pytest.raises(ValidationError, match="did you mean 'librispeech'"):
        DatasetConfig(name="librispeach")


def test_recipe_parameters_are_checked():
    assert violations(LhotseDatasetConfig, name="timit", process_params={"num_phone": 39, "num_jobs": 2}) == [
        (("process_params", "num_phone"), "prepare_timit has no parameter 'num_phone'", "did you mean 'num_phones'?")
    ]
    found = violations(LhotseDatasetConfig, name="librispeech", download_params={"dataset_part": "mini_librispeech"})
    assert found[0][0] == ("download_params", "dataset_part")
    assert found[0][2] == "did you mean 'dataset_parts'?"
    (at, message, _), *_ = violations(LhotseDatasetConfig, name="heroico")
    assert (at, message) == (("process_params",), "prepare_heroico needs 'speech_dir' and 'transcript_dir'")
    assert violations(LhotseDatasetConfig, name="librittsr", process_params={"dataset_parts": "dev-clean"}) == []


def test_folders_are_not_recipe_parameters():
    ((at, message, _),) = violations(LhotseDatasetConfig, name="yesno", process_params={"output_dir": "x"})
    assert (at, message) == (("process_params", "output_dir"), "'output_dir' is set by global_config")


def test_corpus_without_download_takes_no_download_params():
    ((at, message, _),) = violations(LhotseDatasetConfig, name="nsc", download_params={"a": 1})
    assert (at, message) == (("download_params",), "lhotse cannot download nsc, so download_params is not allowed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"type": "hugging_face"},
            "type hugging_face needs path, the tokenizer's folder, or name, its name on the hub",
        ),
        ({"type": "bytes", "path": "x"}, "a tokenizer of bytes has no path"),
        ({"type": "bpe"}, "type bpe needs vocab_size"),
        ({"vocab_size": 300}, "a tokenizer of characters has no vocab_size"),
        ({"type": "hugging_face", "path": "x", "name": "gpt2"}, "path and name are two tokenizers"),
        ({"type": "hugging_face", "path": "x", "revision": "main"}, "revision needs name, a tokenizer on the hub"),
    ],
)
def test_tokenizer_settings_fit_the_type(settings, message):
    ((_, said, _),) = violations(TokenizerConfig, **settings)
    assert said == message


@pytest.mark.parametrize("name", ["./gpt2", "/gpt2", "../a", "~/a", "a/b/c", "a/b.json", "a.txt", "", "a b"])
def test_hub_name_rejects_paths(name):
    with pytest.raises(ValidationError, match="must be a name on the hub"):
        TokenizerConfig(type="hugging_face", name=name)


@pytest.mark.parametrize(
    "files",
    [
        {"train": "a.txt"},
        {"train": ["a.txt", "b.txt"], "test": "c.txt"},
        {"train": {"source": "a.en", "target": "a.de"}},
    ],
)
def test_data_files_round_trip(files):
    config = TextDatasetConfig(name="x", data_files=files)
    assert config.model_dump()["data_files"] == files
    assert TextDatasetConfig.model_validate(config.model_dump()) == config


def test_data_files_accept_pathlib_paths():
    config = TextDatasetConfig(name="x", data_files={"train": Path("a"), "val": [Path("b")]})
    assert config.data_files == {"train": "a", "val": ["b"]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("a.txt", "must be a mapping of split to files, such as {train: a.txt}"),
        ({}, "must not be empty"),
        ({"train": []}, "must not be empty"),
        ({"train": ""}, "must not be empty"),
        ({"train": 3}, "must be a file, a list of files or a pair {source: a.en, target: a.de}"),
        ({"train": {"source": "a", "targt": "b"}}, "targt"),
        ({"source": "a", "target": "b"}, "name the split"),
        ({"train": {"source": "a", "target": "b"}, "test": "c"}, "split 'test' is plain text, while 'train' is a pair"),
        ({"train": {"source": "a", "target": "a"}}, "source and target are the same file 'a'"),
    ],
)
def test_bad_data_files(files, message):
    with pytest.raises(ValidationError) as caught:
        TextDatasetConfig(name="x", data_files=files)
    assert message in str(caught.value)
    assert caught.value.error_count() <= 2


@pytest.mark.parametrize("name", ["", "a/b", "..", " x", "a\\b"])
def test_dataset_name_must_be_a_folder_name(name):
    with pytest.raises(ValidationError, match="must be a plain name"):
        EmbeddedDatasetConfig(name=name)


def test_unknown_source_suggests_a_name():
    with pytest.raises(ValidationError, match=r"unknown data source 'txt' .did you mean 'text'"):
        DatasetConfig(name="x", source="txt")


paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
files = st.one_of(paths, st.lists(paths, min_size=1, max_size=3))
pairs = st.tuples(paths, paths).filter(lambda two: two[0] != two[1]).map(lambda t: PairFiles(source=t[0], target=t[1]))
splits = st.sampled_from(["train", "validation", "test"])


@given(
    st.one_of(st.dictionaries(splits, files, min_size=1), st.dictionaries(splits, pairs, min_size=1)),
    st.one_of(st.none(), st.integers(1, 4096)),
    st.sampled_from(["characters", "bytes"]),
)
def test_dataset_config_dump_and_load_is_identity(data_files, length, kind):
    config = TextDatasetConfig(
        name="x", data_files=data_files, sequence_length=length, tokenizer=TokenizerConfig(type=kind)
    )
    assert TextDatasetConfig.model_validate_json(config.model_dump_json()) == config


def test_config_types_import_nothing_heavy():
    code = (
        "import sys, data_manager.sources; from data_manager.speech.types import LhotseDatasetConfig as L;"
        "L(name='timit', process_params={'num_phones': 39});"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
