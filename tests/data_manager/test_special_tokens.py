"""Names of special tokens in a text stay text, and hostile tokenizer files are refused."""

import json
import pickle

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizerFast, ByT5Tokenizer, PreTrainedTokenizerFast

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.errors import DataError
from data_manager.tokenizers import trial
from data_manager.tokenizers.base import encode_many
from data_manager.tokenizers.bpe import BpeTokenizer
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.simple import ByteTokenizer, CharacterTokenizer
from tests.data_manager.text_configs import text_config, texts

NAMES = ("<|endoftext|>", "<pad>", "</s>", "<unk>", "[MASK]", "[UNK]", "[SEP]", "<bos>", "<eos>")
TEXT = f"say {' '.join(NAMES)} now"


def byte_level(**special):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator([TEXT], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def unigram():
    letters = sorted(set(TEXT.replace(" ", "▁")))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in letters)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def words():
    vocabulary = ["[PAD]", "[UNK]", "[MASK]", "say", "now", "[", "MASK]"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="[MASK]", pad_token="[PAD]", unk_token="[UNK]")


def word_pieces():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "say", "now", "[", "]", "mask"]
    return BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)})


LOSSLESS = {
    "bytes": ByteTokenizer,
    "characters": lambda: CharacterTokenizer.of([TEXT]),
    "bpe": lambda: BpeTokenizer.learn(iter([TEXT] * 9), 400),
    "gpt2": lambda: HuggingFaceTokenizer(
        byte_level(**dict.fromkeys(("bos_token", "eos_token", "unk_token"), NAMES[0]))
    ),
    "added": lambda: HuggingFaceTokenizer(byte_level(mask_token="[MASK]")),
    "unigram": lambda: HuggingFaceTokenizer(unigram()),
    "byt5": lambda: HuggingFaceTokenizer(ByT5Tokenizer()),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_names_of_special_tokens_stay_text(kind, tmp_path):
    tokenizer = LOSSLESS[kind]()
    specials = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    tokenizer.save(tmp_path)
    for found in (tokenizer, pickle.loads(pickle.dumps(tokenizer)), load_tokenizer(tmp_path)):
        ids = found.encode(TEXT)
        assert specials.isdisjoint(ids)
        assert found.decode(ids) == TEXT
        assert encode_many(found, [TEXT, "say"])[0][: len(ids)].tolist() == ids


def test_unigram_with_normaliser_spells_special_tokens():
    tokenizer = HuggingFaceTokenizer(unigram())
    assert tokenizer.decode(tokenizer.encode("now＜/s＞now")) == "now</s>now"
    assert tokenizer.encode("é") == [tokenizer.encode(" ")[0], 2]


def test_lossy_tokenizers_have_no_special_ids_of_text():
    assert HuggingFaceTokenizer(words()).encode("say [MASK] now [PAD]") == [3, 5, 6, 4, 5, 1]
    tokenizer = HuggingFaceTokenizer(word_pieces())
    assert tokenizer.encode("say [MASK] now") == [5, 7, 9, 8, 6]
    assert tokenizer.decode([5, 7, 9, 8, 6]) == "say [ mask ] now"


def test_special_tokens_are_parsed_on_request(tmp_path):
    byte_level(eos_token="<|endoftext|>").save_pretrained(tmp_path / "saved")
    (tmp_path / "a.txt").write_text("say <|endoftext|> now\n" * 3)
    kind = TokenizerConfig(type="hugging_face", path="saved")
    config = text_config(tmp_path, {"train": "a.txt"}, tokenizer=kind, documents="line", rows="whole")
    assert texts(config) == ["say <|endoftext|> now"] * 3
    eos = DatasetManager.tokenizer(config).eos_token_id
    parsed = kind.model_copy(update={"parse_special_tokens": True})
    config = config.model_copy(update={"tokenizer": parsed})
    assert texts(config) == ["say  now"] * 3
    tokenizer = DatasetManager.tokenizer(config)
    assert eos in tokenizer.encode("say <|endoftext|> now")
    tokenizer.save(tmp_path / "run")
    assert eos in load_tokenizer(tmp_path / "run").encode("<|endoftext|>")
    with pytest.raises(ValueError, match="a tokenizer of bpe has no parse_special_tokens"):
        TokenizerConfig(type="bpe", vocab_size=300, parse_special_tokens=True)


def save(folder, model, **parts):
    inner = Tokenizer(model)
    for name, part in parts.items():
        setattr(inner, name, part)
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))


def load(folder):
    (folder / "a.txt").write_text("theta aaaaaa\n")
    kind = TokenizerConfig(type="hugging_face", path="saved")
    return texts(text_config(folder, {"train": "a.txt"}, tokenizer=kind))


def test_vocabulary_without_its_unknown_token(tmp_path):
    save(
        tmp_path / "saved", models.WordLevel({"alpha": 0}, unk_token="[UNK]"), pre_tokenizer=pre_tokenizers.Whitespace()
    )
    with pytest.raises(
        DataError, match=r"saved: a text has a word outside the vocabulary, which lacks its unknown token"
    ):
        load(tmp_path)


def test_pattern_that_backtracks_is_refused(tmp_path):
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex("(a|aa)+$|(.*)*x"), "isolated")
    save(tmp_path / "saved", models.WordLevel({"alpha": 0, "[UNK]": 1}, unk_token="[UNK]"), pre_tokenizer=split)
    with pytest.raises(DataError, match=r"tokenizer\.json fails at a short text: .*; check its normalizer"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"saved fails at a text: PanicException"):
        HuggingFaceTokenizer.load(tmp_path / "saved").encode("a" * 64 + "!")


def test_normaliser_that_multiplies_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "MEMORY", 1 << 29)
    monkeypatch.setattr(trial, "CPU_SECONDS", 5)
    one_byte = models.BPE(vocab={"e": 0}, merges=[])
    save(tmp_path / "saved", one_byte, normalizer=normalizers.Replace("e", "e" * 9000))
    with pytest.raises(DataError, match=r"tokenizer\.json makes [\d,]+ tokens of each byte"):
        load(tmp_path)
    steps = [normalizers.Replace("e", "e" * 100)] * 6
    save(tmp_path / "more", one_byte, normalizer=normalizers.Sequence(steps))
    with pytest.raises(DataError, match=r"takes more than \S+ (GiB|s)"):
        trial.try_tokenizer(tmp_path / "more")


@pytest.mark.parametrize("largest", [2**24, 2**31])
def test_huge_ids_are_refused(tmp_path, largest):
    save(tmp_path / "saved", models.WordLevel({"theta": 0, "[UNK]": 1}, unk_token="[UNK]"))
    path = tmp_path / "saved/tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["theta"] = largest
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"has a token with the id {largest:,}; ids must be below 16,777,216"):
        load(tmp_path)


def test_ids_with_gaps_are_below_the_vocabulary_size(tmp_path):
    save(tmp_path / "saved", models.WordLevel({"theta": 0, "[UNK]": 9}, unk_token="[UNK]"))
    tokenizer = HuggingFaceTokenizer.load(tmp_path / "saved")
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, *tokenizer.encode("x")]
    assert max(ids) < tokenizer.vocab_size
    assert 0 not in ids
