"""Fuzz the readers of runs, checkpoints, tokenizers, prepared data, corpora and connectors."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.fuzzing.file_cases import FileCase
from tools.fuzzing.file_oracle import TargetFolders
from tools.fuzzing.targets import TARGETS

RUNS = {"resume": 8, "lengths": 20, "run": 30}


@pytest.fixture(scope="module")
def targets() -> Iterator[TargetFolders]:
    """Folders of targets, each built once on first use."""
    folders = TargetFolders()
    yield folders
    folders.close()


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzed_files_are_read_or_named(target: str, targets: TargetFolders, tmp_path: Path) -> None:
    verdicts = [targets.judge(FileCase(target, seed), tmp_path) for seed in range(RUNS.get(target, 40))]
    assert [f"{found.name}: {found.complaint}" for found in verdicts if found.complaint] == []
    assert {0} < {found.code for found in verdicts}


def test_fuzzed_file_case_is_reproducible(tmp_path: Path) -> None:
    for seed in range(20):
        contents = []
        for side in ("a", "b"):
            folder = tmp_path / f"{side}{seed}" / "connector"
            folder.mkdir(parents=True)
            (folder / "connector.json").write_text('{"schema_version": 1, "connector": "x", "latent_size": 3}')
            path, way = FileCase.parse(f"connector:file:{seed}").apply(folder.parent)
            changed = folder.parent / path
            contents.append((path, way, changed.read_bytes() if changed.is_file() else None))
        assert contents[0] == contents[1]
    with pytest.raises(ValueError, match="is not a case"):
        FileCase.parse("nothing:file:1")
