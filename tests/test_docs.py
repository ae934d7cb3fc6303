"""Every snippet of every page under `docs/` runs as it stands; `tests/snippets.py` says how."""

import re
from pathlib import Path

import pytest

from tests.snippets import ROOT, Page

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_snippets(page: str, tmp_path: Path) -> None:
    Page(page, tmp_path).run()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
