"""Texts around holes get the tokens that they have inside a whole text, under every kind of tokenizer."""

from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_manager.tokenizers.bpe import BpeTokenizer
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from data_manager.tokenizers.simple import ByteTokenizer, CharacterTokenizer
from data_manager.tokenizers.smiles import SmilesPairTokenizer, SmilesTokenizer
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.draw import draw, encode_start
from model_factory.evaluation.sampling.prompt import (
    Given,
    PromptError,
    check_blocks,
    encode_around_holes,
    read_template,
    texts_around_holes,
    unknown_characters_note,
)
from model_factory.evaluation.sampling.sample import Request, decode_sample
from model_factory.yaml_config.errors import ConfigError
from tests.evaluation.untrained_runs import DECODER, MDLM, make_run, text_data

TEXT = "the war of the great city was lost. the king of the north was walking home and singing; walkers were talking. "
SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CCO", "CC(=O)N"]
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def hugging_face(kind: str) -> HuggingFaceTokenizer:
    """Learn a tokenizer of Hugging Face from TEXT."""
    specials = ["<pad>", "<unk>", "<s>", "</s>"]
    shared: dict[str, Any] = {"vocab_size": 320 if kind == "byte_bpe" else 120, "special_tokens": specials}
    if kind == "wordpiece":
        inner, trainer = Tokenizer(models.WordPiece(unk_token="<unk>")), trainers.WordPieceTrainer(**shared)
        inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece()
    elif kind == "unigram":
        inner, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(**shared, unk_token="<unk>")
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        inner, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer(**shared, initial_alphabet=alphabet)
        inner.pre_tokenizer, inner.decoder = BYTE_LEVEL, decoders.ByteLevel()
    inner.train_from_iterator([TEXT * 20], trainer)
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), specials, strict=True))
    return HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, **names))


MAKERS = {
    "bytes": ByteTokenizer,
    "characters": lambda: CharacterTokenizer.of([TEXT]),
    "bpe": lambda: BpeTokenizer.learn(iter([TEXT * 20]), 320),
    "hugging_face byte_bpe": lambda: hugging_face("byte_bpe"),
    "hugging_face wordpiece": lambda: hugging_face("wordpiece"),
    "hugging_face unigram": lambda: hugging_face("unigram"),
}


@cache
def tokenizer(kind: str) -> Any:
    return MAKERS[kind]()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("space", [True, False], ids=["space before the hole", "space in the hole"])
def test_a_text_with_a_hole_has_the_tokens_of_the_whole_text(kind: str, space: bool) -> None:
    words, known = TEXT.split(" ")[:9], tokenizer(kind)
    whole = known.encode(" ".join(words))
    for start in range(1, 7):
        for stop in range(start + 1, 9):
            before, behind = " ".join(words[:start]) + " " * space, " " + " ".join(words[stop:])
            outside = [encode_around_holes(before, known)[0], encode_around_holes(behind, known, after_hole=True)[0]]
            size = len(whole) - sum(map(len, outside))
            found = read_template(f"{before}[[{size}]]{behind}", known, len(whole))
            for tokens in (whole, found.tokens):
                kept = [token for token, is_kept in zip(tokens, found.kept, strict=True) if is_kept]
                assert kept == [*outside[0], *outside[1]]
            assert not any(found.kept[len(outside[0]) : len(outside[0]) + size])


@pytest.mark.parametrize("pairs", [False, True])
def test_a_smiles_with_a_hole_has_the_tokens_of_the_whole_smiles(pairs: bool) -> None:
    known = SmilesPairTokenizer.learn(SMILES * 10, 90) if pairs else SmilesTokenizer.of(SMILES)
    whole = known.encode(SMILES[0])
    for start in range(1, len(whole) - 2):
        for stop in range(start + 1, len(whole) - 1):
            before, behind = known.decode(whole[:start]), known.decode(whole[stop:])
            found = read_template(f"{before}[[{stop - start}]]{behind}", known, len(whole))
            assert [token for token, kept in zip(found.tokens, found.kept, strict=True) if kept] == [
                *whole[:start],
                *whole[stop:],
            ]


@pytest.mark.parametrize(
    ("kind", "text", "wanted", "spaces"),
    [
        ("bpe", "the war of ", ["the", " war", " of"], " "),
        ("bpe", "the war of", ["the", " war", " of"], ""),
        ("bpe", "the war  ", ["the", " war", " "], " "),
        ("bpe", "the war\n", ["the", " war", "\n"], ""),
        ("bpe", " ", [], " "),
        ("bytes", "of ", ["o", "f", " "], ""),
        ("hugging_face byte_bpe", "the war of ", ["the", " war", " of"], " "),
    ],
)
def test_a_space_at_the_end_is_left_to_the_tokens_that_are_drawn(kind, text, wanted, spaces) -> None:
    known = tokenizer(kind)
    ids, left = encode_around_holes(text, known)
    assert ([known.decode([token]) for token in ids], left) == (wanted, spaces)


def test_a_text_behind_a_hole_continues_its_word() -> None:
    known = tokenizer("hugging_face wordpiece")
    for text, wanted in (("ing home", ["##ing", "home"]), (" home", ["home"]), ("; w", [";", "w"])):
        ids, _ = encode_around_holes(text, known, after_hole=True)
        assert known.inner.convert_ids_to_tokens(ids) == wanted
    known = tokenizer("hugging_face unigram")
    first = known.inner.convert_ids_to_tokens(encode_around_holes("was lost", known, after_hole=True)[0])[0]
    assert not first.startswith("▁")
    assert known.inner.convert_ids_to_tokens(known.encode("was lost"))[0].startswith("▁")


def test_texts_around_holes_are_not_joined_for_the_note_on_unknown_characters() -> None:
    known = tokenizer("hugging_face wordpiece")
    assert texts_around_holes("the great[[3]]city[[]]") == ["the great", "city"]
    assert unknown_characters_note("the greatcity", known) is not None  # no word has a c inside
    assert unknown_characters_note(texts_around_holes("the great[[3]]city[[]]"), known) is None
    note = unknown_characters_note(["the", "\N{GREEK SMALL LETTER PI}"], known)
    assert note == "the prompt has characters that the run's tokenizer does not know ('\N{GREEK SMALL LETTER PI}')"


def test_a_continuation_does_not_repeat_the_space_of_its_prompt(tmp_path) -> None:
    data = text_data(tmp_path, tokenizer={"type": "bpe", "vocab_size": 300})
    run = open_run(make_run(tmp_path, DECODER, data, "language_modelling"))
    assert encode_start(run, "the ") == (Given(run.tokenizer.encode("the")), " ")
    word = run.tokenizer.encode(" the")
    assert decode_sample(word, "of ", run.tokenizer, behind=" ").text == "the"
    assert decode_sample(word, "of", run.tokenizer).text == " the"


# Blocks, and options of a finished run.


@pytest.mark.parametrize("prompt", ["abcd[[3]]", "ab[[2]]", "ab[[1]]d[[]]", "[[3]]d"])
def test_a_hole_in_the_block_of_the_last_text_is_drawn(prompt: str) -> None:
    check_blocks(read_template(prompt, CharacterTokenizer.of(["abcdefgh"]), 12), 4)


def test_a_hole_before_a_later_block_is_named_with_the_block_size() -> None:
    template = read_template("abcde[[2]]fgh[[]]", CharacterTokenizer.of(["abcdefgh"]), 12)
    with pytest.raises(PromptError) as error:
        check_blocks(template, 4)
    assert str(error.value) == (
        "the hole of 2 tokens at token 6 is in block 2, of the tokens 5 to 8, and text of the prompt is in a later block: "
        "the model draws blocks of 4 tokens in order (block_size 4), each from those before it; end the prompt at the hole, "
        "or use a run of another objective, such as mdlm"
    )


def test_a_block_model_refuses_a_hole_before_a_later_block(tmp_path) -> None:
    ddit = {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
    model = {**MDLM, "objective": {"type": "bd3lm", "block_size": 4}, "backbone": ddit}
    run = open_run(make_run(tmp_path, model, text_data(tmp_path), "diffusion"))
    with pytest.raises(PromptError, match="the hole of 3 tokens at token 5 is in block 2"):
        draw(run, Request(prompts=("the [[3]]quick brown",)))


def test_a_value_of_a_finished_run_is_taken_out_by_an_option(tmp_path) -> None:
    folder = make_run(tmp_path, DECODER, text_data(tmp_path), "language_modelling")
    written = (folder / "config.yml").read_text().replace("top_k: null", "top_k: 5")
    (folder / "config.yml").write_text(written)
    with pytest.raises(ConfigError, match=r"; for this command, --set generation\.top_k=null takes it out") as error:
        open_run(folder, ["generation.num_beams=4"])
    assert error.value.problems[0].suggestion == "--set generation.top_k=null"
    open_run(folder, ["generation.num_beams=4", "generation.top_k=null"])
    with pytest.raises(ConfigError) as error:
        open_run(folder, ["generation.top_k=null", "generation.num_beams=4", "generation.temperature=0.5"])
    assert "takes it out" not in str(error.value)
