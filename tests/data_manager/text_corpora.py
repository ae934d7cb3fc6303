"""Small corpora with the file names of `configs/data/`."""

import json
from pathlib import Path

_LINES = [
    f"the {word} of {number} {thing}s" for number in range(40) for word in ("theme", "name") for thing in ("cat", "dog")
]
_MOLECULES = [
    "CCO",
    "c1ccccc1",
    "CC(=O)[O-].[Na+]",
    "N#Cc1ccccc1",
    "OCC",
    "C[C@H](N)O",
    "CCN",
    "CCCl",
    "BrCCBr",
    "C1CC1",
    "CCCO",
    "C1CCCC1O",
]


def write_corpora(folder: Path) -> None:
    """Lay a small corpus for each file of `configs/data/` that reads text or molecules from files."""
    text = "".join(f"{line}\n" if index % 4 else f"{line}\n\n" for index, line in enumerate(_LINES))
    for name in ("wikitext2/valid.txt", "wikitext2/test.txt", "tinyshakespeare/input.txt"):
        _write(folder / name, text)
    for name in ("train", "val", "test_2016_flickr"):
        for side in ("en", "de"):
            _write(folder / f"multi30k/{name}.{side}", "".join(f"{line} {side}\n" for line in _LINES))
    for name in ("zinc_train", "zinc_test", "polymers_train", "polymers_test"):
        _write(folder / f"smiles/{name}.smi", "".join(f"{molecule}\n" for molecule in _MOLECULES))
    _write(folder / "molecules/molecules.csv", "id,smiles\n" + "".join(f"{i},{m}\n" for i, m in enumerate(_MOLECULES)))
    measured = "".join(f"{molecule},{number / 10}\n" for number, molecule in enumerate(_MOLECULES))
    _write(folder / "measured/measured.csv", f"smiles,gap\n{measured}")
    rows = [json.dumps({"title": line[:5], "body": line}) + "\n" for line in _LINES]
    _write(folder / "articles/articles-1.jsonl", "".join(rows))
    _write(folder / "questions/questions.csv", "question;answer;topic\nwhy;because;a\nhow;so;b\n")
    opinions = "".join(f"{line},{('negative', 'positive')['dog' in line]}\n" for line in _LINES)
    for split in ("train", "test"):
        _write(folder / f"opinions/{split}.csv", f"review,opinion\n{opinions}")
    _write_tables(folder)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_tables(folder: Path) -> None:
    import datasets
    from tokenizers import Tokenizer, models, pre_tokenizers

    reviews = datasets.Dataset.from_dict({"review": _LINES, "stars": [5] * len(_LINES)})
    for split in ("train", "test"):
        reviews.to_parquet(str(folder / f"reviews/{split}.parquet"))
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": _LINES})}).save_to_disk(
        str(folder / "saved_dataset")
    )
    words = sorted({word for line in _LINES for word in line.split()})
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "gpt2_tokenizer").mkdir()
    inner.save(str(folder / "gpt2_tokenizer/tokenizer.json"))
