"""Molecules: properties, scaffold splits and random SMILES."""

import pytest
import torch

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.molecules.corpus import _functions, compute_properties
from data_manager.molecules.scaffolds import assign_splits, murcko_scaffold
from data_manager.molecules.types import Property, SmilesDatasetConfig
from tests.data_manager.test_smiles import notes, shared, smiles_config, texts

rdkit = pytest.importorskip("rdkit.Chem", reason="needs rdkit, the extra chem")
LINES = ["CCO", "c1ccccc1O", "c1ccccc1CC", "C1CCCCC1N", "C1CCCCC1CC", "c1ccncc1", "CCN", "c1ccsc1", "C1CCNC1", "CCCl"]


def loaded(config, split="train"):
    data = DatasetManager.load_dataset(config)[split]
    return next(iter(DatasetManager.create_dataloader(data, config, batch_size=len(data))))


def test_molecule_properties_follow_their_molecules(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nnonsense(\nCC(=O)Oc1ccccc1C(=O)O aspirin\n")
    config = smiles_config(tmp_path, "a.smi", properties=["weight", "rings", "logp"])
    batch = loaded(config)
    assert batch["cond"].dtype == torch.float32
    expected = torch.tensor([[46.07, 0, -0.0014], [180.16, 1, 1.3101]])
    torch.testing.assert_close(batch["cond"], expected, atol=0.01, rtol=0)
    assert notes(config) == ["train: 1 skipped: invalid SMILES (a.smi:2)"]
    assert "cond" not in loaded(smiles_config(tmp_path, "a.smi"))


def test_molecule_properties_are_all_implemented():
    known = Property.__args__
    assert set(known) == set(_functions())
    found = compute_properties(rdkit.MolFromSmiles("C[NH+](C)CCO"), known)
    assert len(found) == 12
    assert dict(zip(known, found, strict=True))["charge"] == 1


def test_measured_properties_follow_computed_ones(tmp_path):
    (tmp_path / "a.csv").write_text("smiles,gap,name\nCCO,1.5,a\nCCN,,b\nCCCC,-2e-1,c\nC,x,d\n")
    config = smiles_config(tmp_path, "a.csv", column="smiles", properties=["heavy_atoms"], measured=["gap"])
    torch.testing.assert_close(loaded(config)["cond"], torch.tensor([[3, 1.5], [4, -0.2]]))
    assert notes(config) == ["train: 2 skipped: not a number (a.csv:3, 5)"]
    with pytest.raises(DataError, match=r"a\.csv:3: column 'gap' holds ''; a property must be a finite number"):
        loaded(smiles_config(tmp_path, "a.csv", column="smiles", measured=["gap"], on_invalid="error"))
    with pytest.raises(DataError, match="there is no column 'gapp'; columns: smiles, gap, name"):
        loaded(smiles_config(tmp_path, "a.csv", column="smiles", measured=["gapp"]))


def test_molecule_properties_of_stream_and_processes(tmp_path):
    (tmp_path / "a.smi").write_text("\n".join(LINES))
    plain = loaded(smiles_config(tmp_path, "a.smi", properties=["logp"]))["cond"]
    for more in ({"streaming": True}, {"global_config": shared(tmp_path / "x", num_proc=2)}):
        more = {"global_config": shared(tmp_path), **more, "properties": ["logp"]}
        config = SmilesDatasetConfig(name="tiny", data_files={"train": str(tmp_path / "a.smi")}, **more)
        data = DatasetManager.load_dataset(config)["train"]
        loader = DatasetManager.create_dataloader(data, config, batch_size=10)
        torch.testing.assert_close(next(iter(loader))["cond"], plain)


def test_scaffold_split_keeps_scaffolds_together(tmp_path):
    many = [chain * size + ring for size in range(1, 5) for chain in ("C", "N") for ring in LINES]
    (tmp_path / "a.smi").write_text("\n".join(many))
    config = smiles_config(tmp_path, "a.smi", splits={"train": 0.7, "test": 0.3}, split="scaffold")
    train, test = texts(config), texts(config, "test")
    assert sorted(train + test) == sorted(many)
    assert not {murcko_scaffold(text) for text in train} & {murcko_scaffold(text) for text in test}
    assert len(test) / len(many) == pytest.approx(0.3, abs=0.12)
    again = smiles_config(tmp_path, "a.smi", splits={"train": 0.7, "test": 0.3}, split="scaffold", split_seed=1)
    assert sorted(texts(again) + texts(again, "test")) == sorted(many)


def test_scaffold_split_meets_ratios_and_uses_the_seed():
    names = [f"s{number % 200}" for number in range(1000)]
    found = assign_splits(names, {"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
    assert [found.count(split) for split in ("train", "validation", "test")] == [800, 100, 100]
    assert found == assign_splits(names, {"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
    assert found != assign_splits(names, {"train": 0.8, "validation": 0.1, "test": 0.1}, 1)
    common = [*["big"] * 500, *names[:200]]
    assert assign_splits(common, {"train": 0.8, "test": 0.2}, 0)[0] == "train"


def test_random_smiles_keep_the_molecule_and_only_in_train(tmp_path):
    (tmp_path / "a.smi").write_text("\n".join(LINES))
    (tmp_path / "b.smi").write_text("CC(C)Oc1ccccc1\n")
    files = {"train": "a.smi", "test": "b.smi"}
    settings = {"name": "tiny", "data_files": files, "global_config": shared(tmp_path), "properties": ["logp"]}
    config = SmilesDatasetConfig(**settings, randomise=3)
    found, canonical = texts(config), rdkit.CanonSmiles
    assert found[::4] == LINES
    assert [canonical(text) for text in found] == [canonical(line) for line in LINES for _ in range(4)]
    assert len(set(found)) > 2 * len(LINES)
    assert texts(config, "test") == ["CC(C)Oc1ccccc1"]
    cond = loaded(config)["cond"].view(len(LINES), 4)
    assert torch.equal(cond, cond[:, :1].expand(-1, 4))
    assert texts(SmilesDatasetConfig(**settings, randomise=3)) == found
    assert texts(SmilesDatasetConfig(**settings, randomise=3, randomise_seed=1)) != found


def test_polymer_smiles_with_marked_ends_are_valid(tmp_path):
    lines = ["*CC*", "[*]c1ccc([*])s1", "[*:1]CC(C)[*:2]", "C1CC1*"]
    (tmp_path / "a.smi").write_text("\n".join(lines))
    assert texts(smiles_config(tmp_path, "a.smi")) == lines
    assert texts(smiles_config(tmp_path, "a.smi", check="chemistry")) == lines
    assert texts(smiles_config(tmp_path, "a.smi", canonical=True))[1] == "*c1ccc(*)s1"
    assert notes(smiles_config(tmp_path, "a.smi")) == []
