"""Custom tokenizers: registration, checks of a file, learning, and saving in a run's folder, also as a plugin."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.errors import DataError
from data_manager.text.table_types import HubDatasetConfig
from data_manager.text.types import TextDatasetConfig
from data_manager.tokenizers.base import read_vocabulary, write_vocabulary
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.registry import TOKENIZERS, register_tokenizer
from model_factory.yaml_config.strict_model import StrictModel
from tests.data_manager.text_configs import shared, texts

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = '''
from typing import Annotated
from pydantic import Field
from data_manager.tokenizers.base import read_vocabulary, write_vocabulary
from data_manager.tokenizers.registry import register_tokenizer
from model_factory.yaml_config.strict_model import StrictModel

class WordsConfig(StrictModel):
    """Words between spaces."""
    min_count: Annotated[int, Field(ge=1)] = 1
    """Minimum count of a word. [occurrences]"""

@register_tokenizer("words", config=WordsConfig)
class WordTokenizer:
    pad_token_id, bos_token_id, eos_token_id, unk_token_id = 0, 1, 2, 3

    def __init__(self, words):
        self.words = list(words)
        self.vocab_size = len(self.words) + 4

    @classmethod
    def from_texts(cls, settings, texts):
        found = [word for text in texts for word in text.split()]
        return cls(sorted(word for word in set(found) if found.count(word) >= settings.min_count))

    @classmethod
    def load(cls, folder):
        return cls(read_vocabulary(folder)["words"])

    def encode(self, text):
        return [self.words.index(word) + 4 if word in self.words else 3 for word in text.split()]

    def decode(self, ids):
        return " ".join(self.words[i - 4] for i in ids if i >= 4)

    def save(self, folder):
        write_vocabulary(folder, {"type": "words", "words": self.words})
'''

RUN = """
model: {model_type: decoder, decoder: {d_model: 8, num_layers: 1, num_heads: 2, max_length: 8, device: cpu}}
datasets:
  - {name: r, source: text, data_files: {train: a.txt}, documents: line, rows: whole, tokenizer: {type: words}}
training: {max_steps: 2, batch_size: 4}
generation: {max_new_tokens: 3}
"""


@pytest.fixture
def registered():
    """Undo the registrations of a test."""
    before = {name: TOKENIZERS.get(name) for name in TOKENIZERS}
    yield
    TOKENIZERS._entries.clear()
    TOKENIZERS._entries.update(before)


class OffsetConfig(StrictModel):
    """Code points plus an offset."""

    offset: Annotated[int, Field(ge=0)] = 0


class OffsetTokenizer:
    """One token a code point up to 255, its id shifted by four and the offset."""

    pad_token_id, bos_token_id, eos_token_id, unk_token_id = 0, 1, 2, 3

    def __init__(self, offset):
        self.offset, self.vocab_size = offset, 260 + offset

    @classmethod
    def from_settings(cls, settings, dataset):
        return cls(settings.offset)

    @classmethod
    def load(cls, folder):
        return cls(read_vocabulary(folder)["offset"])

    def encode(self, text):
        return [ord(letter) + 4 + self.offset for letter in text]

    def decode(self, ids):
        return "".join(chr(i - 4 - self.offset) for i in ids if i >= 4 + self.offset)

    def save(self, folder):
        write_vocabulary(folder, {"type": "offset", "offset": self.offset})


def learned_kind():
    """Return the class of a tokenizer whose offset is the number of training texts, and the list of its learnings."""
    runs = []

    class LearnedTokenizer(OffsetTokenizer):
        from_settings = None
        saved_type = "learned"

        @classmethod
        def from_texts(cls, settings, texts):
            runs.append(settings)
            return cls(len(list(texts)))

        def save(self, folder):
            write_vocabulary(folder, {"type": self.saved_type, "offset": self.offset})

    return LearnedTokenizer, runs


def config(folder, tokenizer, text="ab\ncd\n"):
    (folder / "a.txt").write_text(text)
    files = {"train": str(folder / "a.txt")}
    return TextDatasetConfig(
        name="x", data_files=files, documents="line", rows="whole", tokenizer=tokenizer, global_config=shared(folder)
    )


def test_custom_tokenizer_from_settings_encodes_a_data_set(tmp_path, registered):
    register_tokenizer("offset", config=OffsetConfig)(OffsetTokenizer)
    made = config(tmp_path, {"type": "offset", "offset": 7})
    assert texts(made) == ["ab", "cd"]
    assert DatasetManager.tokenizer(made).vocab_size == 267
    assert TextDatasetConfig.model_validate(made.model_dump()) == made
    assert made.model_dump()["tokenizer"] == {"offset": 7, "type": "offset"}


def test_custom_tokenizer_saves_and_loads(tmp_path, registered):
    register_tokenizer("offset", config=OffsetConfig)(OffsetTokenizer)
    OffsetTokenizer(5).save(tmp_path)
    assert load_tokenizer(tmp_path).offset == 5


def test_learned_tokenizer_is_reused_until_text_settings_or_version_change(tmp_path, registered):
    kind, runs = learned_kind()
    register_tokenizer("learned", config=OffsetConfig)(kind)
    settings = {"type": "learned"}
    assert texts(config(tmp_path, settings)) == texts(config(tmp_path, settings)) == ["ab", "cd"]
    assert len(runs) == 1
    texts(config(tmp_path, settings, text="ab\n"))
    texts(config(tmp_path, {**settings, "offset": 1}))
    kind.version = 2
    texts(config(tmp_path, settings))
    assert len(runs) == 4


def test_learned_tokenizer_must_save_its_type(tmp_path, registered):
    kind, _ = learned_kind()
    kind.saved_type = "other"
    register_tokenizer("learned", config=OffsetConfig)(kind)
    with pytest.raises(DataError, match=r"'learned': its save\(folder\) must call .*write_vocabulary"):
        texts(config(tmp_path, {"type": "learned"}))


def test_only_tokenizers_from_settings_fit_a_stream(registered):
    register_tokenizer("offset", config=OffsetConfig)(OffsetTokenizer)
    register_tokenizer("learned", config=OffsetConfig)(learned_kind()[0])
    HubDatasetConfig(name="x", streaming=True, tokenizer={"type": "offset"})
    with pytest.raises(ValidationError, match="a tokenizer of learned is learned from the whole text"):
        HubDatasetConfig(name="x", streaming=True, tokenizer={"type": "learned"})


def test_registered_class_needs_its_methods(registered):
    for kind in (OffsetConfig, type("Half", (), {"from_texts": None})):
        with pytest.raises(ValueError, match=r"needs the classmethod load\(folder\), and either from_texts"):
            register_tokenizer("half", config=OffsetConfig)(kind)


@pytest.mark.parametrize("name", ["bytes", "smiles"])
def test_custom_tokenizer_cannot_replace_a_built_in_one(name):
    script = (
        "from tests.data_manager.test_custom_tokenizer import OffsetConfig, OffsetTokenizer;"
        "from data_manager.tokenizers.registry import register_tokenizer;"
        f"register_tokenizer({name!r}, config=OffsetConfig)(OffsetTokenizer)"
    )
    done = run(ROOT, "-c", script)
    assert f"tokenizer type {name!r} is already registered" in done.stderr


def test_built_in_kinds_share_the_public_config_type():
    assert list(TOKENIZERS)[-6:] == ["characters", "bytes", "hugging_face", "bpe", "smiles", "run"]
    assert all(TOKENIZERS.get(name).config_type is TokenizerConfig for name in list(TOKENIZERS)[-6:])


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_tokenizer_of_a_plugin_is_checked_without_torch(tmp_path):
    (tmp_path / "my_words.py").write_text(PLUGIN)
    entry = "datasets:\n  - {name: r, source: text, data_files: {train: a.txt}, tokenizer: %s}\n"
    files = {
        "right": "{type: words, min_count: 2}",
        "key": "{type: words, min_cuont: 2}",
        "value": "{type: words, min_count: 0}",
        "type": "{type: wrods}",
        "none": "{type: syllables}",
    }
    (tmp_path / "a.txt").touch()
    for name, tokenizer in files.items():
        (tmp_path / f"{name}.yml").write_text(entry % tokenizer)
    script = (
        "import sys; from parse_args import main; code = main(sys.argv[1:]);"
        "print(code, sorted({'torch', 'transformers', 'datasets', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )

    def check(name, *options):
        done = run(tmp_path, "-c", script, "--config", f"{name}.yml", *options)
        return done.stdout.splitlines()[-1], done.stderr

    plugin = ("--plugin", "my_words")
    assert check("right", *plugin) == ("0 []", "")
    assert (
        "datasets.0.tokenizer.min_cuont: unknown key 'min_cuont'; did you mean 'min_count'?" in check("key", *plugin)[1]
    )
    assert "datasets.0.tokenizer.min_count: must be at least 1; got 0" in check("value", *plugin)[1]
    assert "did you mean 'words'?" in check("type", *plugin)[1]
    assert "--plugin MODULE" in check("none")[1]
    schema = json.loads(run(tmp_path, str(ROOT / "parse_args.py"), *plugin, "--schema").stdout)
    (text,) = (
        entry["properties"]
        for entry in schema["properties"]["datasets"]["items"]["anyOf"]
        if entry["properties"]["source"]["const"] == "text"
    )
    (words,) = (
        variant["allOf"][0]
        for variant in text["tokenizer"]["anyOf"]
        if variant["properties"]["type"].get("const") == "words"
    )
    described = words["properties"]["min_count"]
    assert (described["minimum"], described["description"]) == (1, "Minimum count of a word. [occurrences]")


def test_tokenizer_of_a_plugin_is_saved_in_a_run(tmp_path):
    (tmp_path / "my_words.py").write_text(PLUGIN)
    (tmp_path / "a.txt").write_text("the cat sat\nthe dog sat\n" * 8)
    (tmp_path / "x.yml").write_text(RUN)
    done = run(tmp_path, str(ROOT / "train.py"), "--plugin", "my_words", "--config", "x.yml", "--output", "run")
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "run/tokenizer/vocabulary.json").read_text())
    assert (saved["type"], saved["words"]) == ("words", ["cat", "dog", "sat", "the"])
    generate = [str(ROOT / "generate.py"), "--run", "run", "--prompt", "the cat", "--json"]
    done = run(tmp_path, *generate, "--plugin", "my_words")
    assert done.returncode == 0, done.stderr
    assert '"the cat' in done.stdout
