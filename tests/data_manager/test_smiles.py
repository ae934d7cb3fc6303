"""Molecules: tokens, validation, salts, canonical form, duplicates, and the round trip from a file to rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.molecules.corpus import canonical_text
from data_manager.molecules.types import SmilesDatasetConfig
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.smiles import SmilesPairTokenizer, SmilesTokenizer, split_smiles
from model_factory.evaluation.metrics.molecules import canonical_smiles
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
        ("N->[Pt]<-N", "N -> [Pt] <- N"),
        ("C<-1CC->1", "C <- 1 C C -> 1"),
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


def test_smiles_of_another_language_is_told(tmp_path):
    (tmp_path / "a.smi").write_text("[C][=C][Ring1][C]\nCCO,ethanol\nCCO\n")
    config = smiles_config(tmp_path, "a.smi")
    assert texts(config) == ["CCO"]
    assert notes(config) == [
        "train: 1 skipped: this is SELFIES, not SMILES; decode it first, for example with selfies.decoder (a.smi:1)",
        "train: 1 skipped: a comma follows the SMILES; set column to read a CSV file, or write a space before the name "
        "(a.smi:2)",
    ]
    (tmp_path / "a.smi").write_text("[C][=C]\n[C][Branch1][C][C]\n")
    with pytest.raises(DataError, match=r"no documents\n  train: 2 skipped: this is SELFIES, not SMILES"):
        texts(smiles_config(tmp_path, "a.smi"))
    with pytest.raises(DataError, match=r"a\.smi:1: this is SELFIES, .*; got '\[C\]\[=C\]'"):
        texts(smiles_config(tmp_path, "a.smi", on_invalid="error"))


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


def test_smiles_canonical_form_is_a_fixed_point(tmp_path):
    chemistry()
    phosphinine = [
        "O=p1ccccc1",
        "O=P1=CC=CC=C1",
        "[O-][p+]1ccccc1",
    ]  # rdkit writes the first as the second, that as the third
    unreadable = "Cn=1ccc2cccc21"  # rdkit cannot read its canonical form
    (tmp_path / "a.smi").write_text("\n".join([*phosphinine, unreadable]))
    config = smiles_config(tmp_path, "a.smi", canonical=True, drop_duplicates=True)
    assert texts(config) == phosphinine[2:]
    assert notes(config) == [
        "train: 2 skipped: duplicate (a.smi:2, 3)",
        "train: 1 skipped: invalid SMILES (a.smi:4)",
    ]
    assert {canonical_smiles(one) for one in phosphinine} == {phosphinine[2]}
    assert canonical_smiles(unreadable) is None


class _Alternating:
    """Chemistry in which the canonical texts of two molecules alternate, after one that leads to them."""

    MolFromSmiles = staticmethod({"A": "A", "B": "B", "C": "C"}.get)
    MolToSmiles = staticmethod({"A": "C", "B": "C", "C": "B"}.get)


@pytest.mark.parametrize("molecule", ["A", "B", "C"])
def test_smiles_canonical_cycle_has_one_representative(molecule):
    assert canonical_text(_Alternating, molecule) == "B"


def test_smiles_dative_bonds_have_tokens_in_every_rewriting(tmp_path):
    chemistry()
    lines = ["[NH3]->[Pt](Cl)(Cl)<-[NH3]", "N->[Pt](Cl)Cl", "C1CN(->[Ni](N1)Cl)C", "CCO"]
    (tmp_path / "a.smi").write_text("\n".join(lines))
    assert texts(smiles_config(tmp_path, "a.smi")) == lines
    config = smiles_config(tmp_path, "a.smi", canonical=True, randomise=5)
    found = texts(config)
    assert len(found) == 24
    assert any("<-" in text for text in found)
    assert notes(config) == []
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in found)


@pytest.mark.parametrize("key", [{"canonical": True}, {"salts": "strip"}, {"canonical": True, "rows": "cut"}])
def test_smiles_rewritten_with_unknown_tokens_is_left_out(key, tmp_path):
    chemistry()
    (tmp_path / "a.smi").write_text("CCO\n")
    (tmp_path / "b.smi").write_text("C(C)Br.O\nCCO\nCCCl\n")  # r and l are unknown; CCCl is not rewritten
    config = SmilesDatasetConfig(
        name="tiny",
        data_files={"train": "a.smi", "test": "b.smi"},
        tokenizer={"type": "characters"},
        global_config=shared(tmp_path),
        **key,
    )
    assert texts(config, "test") == ["CCO", "CCC\N{REPLACEMENT CHARACTER}"]
    assert notes(config, "test") == [
        "test: 1 skipped: a rewritten SMILES with tokens that the tokenizer does not know (b.smi:1)",
        "test: 1 unknown token, whose text is lost, in 1 text (b.smi:3)",
    ]


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
