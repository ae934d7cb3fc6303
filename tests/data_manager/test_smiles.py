"""Molecules: tokens, validation, salts, canonical form, duplicates, and the round trip from a file to rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.molecules.types import SmilesDatasetConfig
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.smiles import SmilesPairTokenizer, SmilesTokenizer, split_smiles, syntax_error
from tests.data_manager.text_configs import notes, shared, texts
from tests.real_data import real_data

JOINED = SmilesPairTokenizer.learn(["CC(=O)Nc1ccccc1", "CC(=O)NCCBr"], 300)


def smiles_config(folder, file, **more):
    return SmilesDatasetConfig(name="tiny", data_files={"train": file}, global_config=shared(folder), **more)


def chemistry():
    pytest.importorskip("rdkit", reason="needs rdkit, the extra chem")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("CC(=O)Oc1ccccc1", "C C ( = O ) O c 1 c c c c c 1"),
        ("C[C@@H](N)Cl", "C [C@@H] ( N ) Cl"),
        ("[13CH4].[Na+].Br", "[13CH4] . [Na+] . Br"),
        ("C%12CC%12", "C %12 C C %12"),
        ("C%(123)CC%(123)", "C %(123) C C %(123)"),
        (r"F/C=C\F", r"F / C = C \ F"),
        ("*C*.B$C#N~N:n", "* C * . B $ C # N ~ N : n"),
        ("CC>>CO", "C C >> C O"),
        ("Cn1cnc2C1", "C n 1 c n c 2 C 1"),
    ],
)
def test_smiles_tokens(text, tokens):
    assert split_smiles(text) == tokens.split()
    tokenizer = SmilesTokenizer.of([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(tokens.split())


@given(st.text(st.sampled_from("CNOcnHBrl[]()@+-=#%0123456789./\\ !ü"), max_size=30))
def test_smiles_tokenizer_is_lossless(text):
    assert "".join(split_smiles(text)) == text
    tokenizer = SmilesTokenizer.of(["CCO"])
    known = all(character not in " !ü" for character in text)
    assert (tokenizer.decode(tokenizer.encode(text)) == text) is known
    ids, lengths = tokenizer.encode_many([text, "CC"])
    assert ids.tolist() == [*tokenizer.encode(text), *tokenizer.encode("CC")]
    assert lengths.tolist()[1] == 2


def test_smiles_unknown_atom_is_encoded_by_characters():
    tokenizer = SmilesTokenizer.of(["C[C@H](O)N"])
    ids = tokenizer.encode("[C@@H][C@H]")
    assert tokenizer.decode(ids) == "[C@@H][C@H]"
    assert len(ids) == 7
    assert tokenizer.unk_token_id not in ids


def test_smiles_tokenizer_saves_and_loads(tmp_path):
    tokenizer = SmilesTokenizer.of(["C[C@H](O)N"])
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).identity() == tokenizer.identity()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("CC!", "'!' is not a SMILES token"),
        ("C[CH", "'[' is not a SMILES token"),
        ("C(C", "'(' without a matching ')'"),
        ("CC)C", "')' without a matching '('"),
        ("C1CC", "ring 1 is not closed"),
        ("C%11CC1", "ring 1 is not closed"),
        ("C%01CC1", None),
        ("C1CC1", None),
    ],
)
def test_smiles_syntax_errors(text, problem):
    assert syntax_error(text) == problem


def test_smiles_invalid_lines_are_counted_and_reported(tmp_path):
    (tmp_path / "a.smi").write_text("CCO ethanol\n\nC(C\tbroken\nc1ccccc1\n")
    config = smiles_config(tmp_path, "a.smi")
    assert texts(config) == ["CCO", "c1ccccc1"]
    assert notes(config) == ["train: 1 skipped: empty line (a.smi:2)", "train: 1 skipped: invalid SMILES (a.smi:3)"]
    with pytest.raises(DataError, match=r"a\.smi:3: '\(' without a matching '\)' in 'C\(C'"):
        texts(smiles_config(tmp_path, "a.smi", on_invalid="error"))


def test_smiles_column_of_a_csv_file(tmp_path):
    (tmp_path / "a.csv").write_text("id,smiles,y\n1,CCO,0.5\n2,CCN,0.7\n")
    (tmp_path / "a.tsv").write_text("id\tsmiles\n1\tCCO\n")
    assert texts(smiles_config(tmp_path, "a.csv", column="smiles")) == ["CCO", "CCN"]
    assert texts(smiles_config(tmp_path, "a.tsv", column="smiles")) == ["CCO"]
    with pytest.raises(DataError, match=r"a\.csv is a CSV file; name the column of SMILES"):
        texts(smiles_config(tmp_path, "a.csv"))


def test_smiles_duplicates_are_dropped_by_text(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nOCC\nCCO\n")
    config = smiles_config(tmp_path, "a.smi", drop_duplicates=True)
    assert texts(config) == ["CCO", "OCC"]
    assert notes(config) == ["train: 1 skipped: duplicate (a.smi:3)"]


def test_smiles_chemistry_check(tmp_path):
    chemistry()
    lines = ["OCC", "CCO", "C(C)(C)(C)(C)C", "[Na+].CC(=O)[O-]", "c1cccc1", "CCO.Cl"]
    (tmp_path / "a.smi").write_text("\n".join(lines))
    config = smiles_config(tmp_path, "a.smi", check="chemistry")
    assert texts(config) == [lines[0], lines[1], lines[3], lines[5]]
    assert notes(config) == ["train: 2 skipped: invalid SMILES (a.smi:3, 5)"]
    config = smiles_config(tmp_path, "a.smi", canonical=True, salts="strip", drop_duplicates=True)
    assert texts(config) == ["CCO", "CC(=O)[O-]"]
    assert notes(config)[0] == "train: 2 skipped: duplicate (a.smi:2, 6)"
    kept = texts(smiles_config(tmp_path, "a.smi", canonical=True))
    assert kept == ["CCO", "CCO", "CC(=O)[O-].[Na+]", "CCO.Cl"]
    with pytest.raises(DataError, match=r"a\.smi:3: Explicit valence for atom # 0 C, 5, is greater than permitted"):
        texts(smiles_config(tmp_path, "a.smi", check="chemistry", on_invalid="error"))


def test_smiles_without_rdkit(tmp_path, monkeypatch):
    (tmp_path / "a.smi").write_text("CCO\n")
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(DataError, match=r"need rdkit .*; pip install rdkit, or remove these keys"):
        texts(smiles_config(tmp_path, "a.smi", canonical=True))
    assert texts(smiles_config(tmp_path, "a.smi")) == ["CCO"]


@pytest.mark.parametrize("name", ["zinc", "polymers"])
def test_smiles_round_trip_of_real_molecules(name, tmp_path):
    folder = real_data("smiles")
    config = SmilesDatasetConfig(
        name="smiles",
        data_files={"train": str(folder / f"{name}_train.smi"), "test": str(folder / f"{name}_test.smi")},
        global_config=shared(tmp_path),
    )
    for split in ("train", "test"):
        lines = (folder / f"{name}_{split}.smi").read_text().split()
        assert texts(config, split) == lines
        assert notes(config, split) == []
    tokenizer = DatasetManager.tokenizer(config)
    assert tokenizer.unk_token_id not in tokenizer.encode_many(lines)[0]


def test_smiles_pairs_merge_frequent_tokens(tmp_path):
    (tmp_path / "a.smi").write_text("c1ccccc1CC(=O)N\nc1ccccc1CBr\nCC(=O)NC\n" * 20 + "[13CH4]Cl\n")
    config = smiles_config(tmp_path, "a.smi", tokenizer={"type": "smiles", "vocab_size": 260})
    assert texts(config)[:3] == ["c1ccccc1CC(=O)N", "c1ccccc1CBr", "CC(=O)NC"]
    tokenizer, single = DatasetManager.tokenizer(config), SmilesTokenizer.of(["[13CH4]"])
    assert len(tokenizer.encode("c1ccccc1")) <= 2
    for text in ("c1ccccc1CC(=O)N", "[13CH4]CCl", "N[C@@H](C)C", "C%12CC%12", "ClCCl"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text)) <= len(single.encode(text))
    assert tokenizer.encode("C!C").count(tokenizer.unk_token_id) == 1
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.identity() == tokenizer.identity()
    assert again.encode("c1ccccc1CBr") == tokenizer.encode("c1ccccc1CBr")
    assert again.vocab_size == tokenizer.vocab_size == len(tokenizer.tokens) + 4
    assert tokenizer.identity() != DatasetManager.tokenizer(smiles_config(tmp_path, "a.smi")).identity()
    with pytest.raises(ValueError, match="the pair 4, 999 has an id that is not defined before it"):
        SmilesPairTokenizer(tokenizer.base, [(4, 999)])


@given(st.text(st.sampled_from("CNOcnHBrl[]()@+-=#%0123456789./\\"), max_size=30))
def test_smiles_pairs_are_lossless(text):
    assert JOINED.decode(JOINED.encode(text)) == text
