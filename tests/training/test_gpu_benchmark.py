"""The benchmark of GPUs runs on a CPU too, where it leaves out what a GPU alone can tell."""

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_steps import NONE, OBJECTIVES


def test_every_part_prints_its_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(OBJECTIVES) - {"mdlm", "udlm"}:
        monkeypatch.delitem(OBJECTIVES, name)
    gpu.main(["--device", "cpu", "--tiny"])
    output = capsys.readouterr().out
    sections = {text.partition("\n")[0]: text for text in output.split("### ")[1:]}
    assert list(sections) == list(gpu.PARTS)
    rows = [line.split(" | ") for line in sections["steps"].splitlines() if line.startswith("| mdlm")]
    assert [row[0] for row in rows] == ["| mdlm, ddit", "| mdlm, performer", "| mdlm, bert"]
    assert all(float(row[2].replace(",", "")) > 0 for row in rows)
    assert all(NONE in row[3] for row in rows)  # launches are counted on a GPU alone


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_told_what_runs() -> None:
    with pytest.raises(SystemExit, match="--device cpu --tiny runs the same code"):
        gpu.main([])
