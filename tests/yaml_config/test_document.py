"""Reading: positions, merge keys, `extends`, `--set`, and invalid text."""

from pathlib import Path

import pytest

from model_factory.yaml_config.document import read_document
from model_factory.yaml_config.errors import ConfigError, ConfigFileError, ConfigSyntaxError


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "a.yml") -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


def test_positions_match_the_text(write) -> None:
    root = read_document(write("a:\n  b: [1, 22]\n")).root
    node = root.at(("a", "b", 1))
    assert node is not None
    assert (node.place.line, node.place.column, node.place.width) == (2, 10, 2)
    assert str(root.at(("a",)).key_place) == "a.yml:1:1"


def test_merge_keys_and_anchors(write) -> None:
    text = "x: &x {p: 1, q: 2}\ny: &y {q: 5, r: 6}\na:\n  <<: [*x, *y]\n  p: 3\nb: *x\n"
    data = read_document(write(text)).root.data()
    assert data["a"] == {"p": 3, "q": 2, "r": 6}
    assert data["b"] == {"p": 1, "q": 2}


def test_quoted_and_tagged_scalars_are_strings(write) -> None:
    data = read_document(write("a: '1'\nb: !!str 010\nc: |\n  7\nd: !!float 1\n")).root.data()
    assert data == {"a": "1", "b": "010", "c": "7\n", "d": 1.0}


def test_extends_merges_by_key_and_keeps_files(write) -> None:
    write("a: {x: 1, y: 2}\nl: [1, 2]\n", "base/one.yml")
    write("a: {y: 3, z: 4}\n", "base/two.yml")
    root = read_document(write("extends: [base/one.yml, base/two.yml]\na: {z: 5}\nl: [9]\n")).root
    assert root.data() == {"a": {"x": 1, "y": 3, "z": 5}, "l": [9]}
    assert root.at(("a", "x")).place.file == "base/one.yml"
    assert root.at(("a", "z")).place.file == "a.yml"


def test_extends_is_relative_to_its_file(write) -> None:
    write("a: 1\n", "deep/er/base.yml")
    write("extends: er/base.yml\n", "deep/mid.yml")
    assert read_document(write("extends: deep/mid.yml\nb: 2\n")).root.data() == {"a": 1, "b": 2}


def test_shared_base_is_no_loop(write) -> None:
    write("a: 1\n", "base.yml")
    write("extends: base.yml\n", "mid.yml")
    assert read_document(write("extends: [base.yml, mid.yml]\n")).root.data() == {"a": 1}


def test_override_creates_mappings_and_replaces_entries(write) -> None:
    name = write("l: [{x: 1}, 2]\n")
    root = read_document(name, ["l.0.x=1e-4", "l.1=no", "m.n.o=[1, 2]", "e="]).root
    assert root.data() == {"l": [{"x": 1e-4}, "no"], "m": {"n": {"o": [1, 2]}}, "e": None}
    assert root.at(("l", 0, "x")).place.file == "--set l.0.x=1e-4"


def test_later_overrides_win(write) -> None:
    assert read_document(write("a: 1\n"), ["a=2", "a=3"]).root.data() == {"a": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n\tb: 1\n", "a.yml:2:1: a tab cannot indent YAML; use spaces"),
        ("a: 1\n---\nb: 2\n", "a.yml:2:1: a second document starts here"),
        ("- a\n", "a.yml:1:1: the file holds a list"),
        ("text\n", "a.yml:1:1: the file holds a string"),
        ("", "a.yml:1:1: the file is empty"),
        ("# only a comment\n", "a.yml:1:1: the file is empty"),
        ("a: 1".encode("utf-16"), "a.yml:1:1: the file is UTF-16, by its byte order mark"),
        ("a: 1\nname: café\n".encode("latin-1"), "a.yml:2:10: byte 0xe9 is not UTF-8 (in Latin-1 it is 'é')"),
        ("a: !!python/object/apply:os.system [ls]\n", "a.yml:1:4: tag !!python/object/apply:os.system is not allowed"),
        ("a: !x 1\n", "a.yml:1:4: tag !x is not allowed"),
        ("[" * 100_000, "a.yml:1:65: nested more than 64 deep"),
        ("a: &a [*a]\n", "a.yml:1:8: alias *a is inside its own anchor"),
        ("a: *b\n", "a.yml:1:4: alias *b has no anchor before it"),
        ("a: 1\nb: 2\na: 3\n", "a.yml:3:1: duplicate key 'a', already at line 1"),
        ("1: x\n", "a.yml:1:1: the key '1' is not text"),
        ("? [a]\n: 1\n", "a.yml:1:3: a key must be plain text"),
        ("a: \x00\n", "is not allowed in YAML"),
        ("a: b: c\n", "a.yml:1:5: not YAML: mapping values are not allowed"),
        ("a: " + "9" * 5000, "a.yml:1:4: not a number that can be read"),
        ("a: {<<: 3}\n", "a.yml:1:5: a merge key takes a mapping"),
    ],
)
def test_syntax_error_is_one_clear_line(write, text: str | bytes, words: str) -> None:
    name = write(text)
    try:
        problems = read_document(name).problems
        heads = [problem.headline() for problem in problems]
    except ConfigError as error:
        heads = [problem.headline() for problem in error.problems]
    assert len(heads) == 1
    assert words in heads[0]
    assert "\n" not in heads[0]


def test_utf8_byte_order_mark_is_read(write) -> None:
    assert read_document(write(b"\xef\xbb\xbfa: 1\n")).root.data() == {"a": 1}


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("a:\n  b:\xa01\n  c: 2\n", "a.yml:2:5: a no-break space (U+00A0) is not the space that YAML needs"),
        ("a:\n  b:\u30001\n", "a.yml:2:5: an ideographic space (U+3000)"),
        ("a:\n  b:\u200b 1\n  c: 2\n", "a.yml:2:5: a zero width space (U+200B)"),
        ("a: {b: 1,\u202fc: 2}\n", "a.yml:1:10: a narrow no-break space (U+202F)"),
        ("a: 1\xa0\n", "a.yml:1:5: a no-break space (U+00A0)"),
        ("a:\n  b: 'x：y'\n  c： 1\n", "a.yml:3:4: a full-width colon (U+FF1A) is not the colon that YAML needs"),
        ("a: {b： 1, c: 2}\n", "a.yml:1:6: a full-width colon (U+FF1A)"),
    ],
)
def test_lookalike_characters_are_named_in_their_line(write, text: str, head: str) -> None:
    name = write(text)
    try:
        problems = list(read_document(name).problems)
    except ConfigError as error:
        problems = error.problems
    assert [problem.headline()[: len(head)] for problem in problems] == [head]


def test_lookalike_characters_in_text_are_kept(write) -> None:
    text = "a: x\xa0y\nb: '\xa0z：'\nc: Frage： ja\nd: |\n  e:\xa01\n"
    found = read_document(write(text))
    assert found.problems == ()
    assert found.root.data() == {"a": "x\xa0y", "b": "\xa0z：", "c": "Frage： ja", "d": "e:\xa01\n"}


def test_alias_bomb(write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    with pytest.raises(ConfigSyntaxError, match="expands to more than 10,000 values"):
        read_document(write("\n".join(lines)))


def test_files_that_cannot_be_read(write, tmp_path: Path) -> None:
    write("a: 1\n")
    for name, words in ((".", "is a folder"), ("aa.yml", "did you mean a.yml?"), ("x\0y", "cannot be a file's name")):
        with pytest.raises(ConfigFileError, match=words.replace("?", r"\?")) as caught:
            read_document(name)
        assert caught.value.is_unreadable
    with pytest.raises(ConfigFileError, match=r"has 50\.0 MB"):
        read_document(write(b"a" * 50_000_000, "big.yml"))


def test_extends_loop_is_reported(write) -> None:
    write("extends: a.yml\n", "b.yml")
    with pytest.raises(
        ConfigError, match=r"b\.yml:1:10: files extend each other in a loop: a\.yml -> b\.yml -> a\.yml"
    ):
        read_document(write("extends: b.yml\n"))


def test_missing_base_is_reported_at_extends(write) -> None:
    with pytest.raises(ConfigFileError, match=r"a\.yml:1:10: no such file: gone\.yml"):
        read_document(write("extends: gone.yml\n"))


def test_problems_of_a_base_name_its_file(write) -> None:
    write("b: 1\nb: 2\n", "base.yml")
    [problem] = read_document(write("extends: base.yml\n")).problems
    assert problem.headline().startswith("base.yml:2:1: duplicate key 'b'")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("l.5=1", "the list 'l' has 2 entries, 0 to 1"),
        ("s.x=1", "'s' is a string, and nothing can be set below it"),
        ("s=[1", "not YAML"),
        ("s=!!python/name:os 1", "tag !!python/name:os is not allowed"),
    ],
)
def test_invalid_overrides_are_reported(write, option: str, words: str) -> None:
    [problem] = read_document(write("l: [1, 2]\ns: x\n"), [option]).problems
    assert words in problem.message
    assert problem.place.file == f"--set {option}"
