"""Parse YAML text to a tree of nodes with positions, from the events of PyYAML's C parser.

This composer reports duplicate keys, reads scalars of YAML 1.2, and bounds nesting (PyYAML's composer overruns the C stack
at some 100,000 brackets).
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from model_factory.yaml_config.errors import ConfigError, ConfigSyntaxError, Place, Problem, fail
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.scalars import resolve_scalar

MAX_DEPTH = 64
MAX_NODES = 10_000
MAX_KEYS = 1000
"""Keys of one mapping. Each unknown key is a problem, and the keys that fit into a file would take minutes."""
MAX_PROBLEMS = 500
"""Problems of one file's text: duplicate keys, keys that are not text, tags."""
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


Event = Any
"""Event of the parser; PyYAML's stubs lack most of its attributes."""

_LARGEST = 10**15
_JOINED = re.compile(r"(?P<key>[A-Za-z_][\w.-]*):(?P<value>[^\s:/\\].*)")
"""A key and its value without a space between them; paths and URLs do not match."""
_ONE_A_LINE = "one 'key: value' a line; quote a value that holds ': '"
_SPACES = "\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200C))) + "\u202f\u205f\u2060\u3000\ufeff"
_COLONS = "\ufe55\uff1a"
_ODD = re.compile(rf"^[ -]*([{_SPACES}])|[:,{{\[] *([{_SPACES}])|(?:^|[{{,]) *(?:- +)?[\w.-]+ *([{_COLONS}])")
"""A character where YAML needs a space or a colon, which only looks like one."""
_ODD_COLON = re.compile(rf"[A-Za-z_][\w.-]*:[{_SPACES}]")
_ODD_JOINED = re.compile(rf"(?P<key>[A-Za-z_][\w.-]*) *(?P<odd>:[{_SPACES}]|[{_COLONS}]) *(?P<value>\S.*)")
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def compose(text: str, file: str) -> tuple[Node, list[Problem]]:
    """Return the one document in `text`, and the problems that do not stop reading (duplicate keys, tags).

    Raises ConfigSyntaxError, which holds these too, if the text is not YAML.
    """
    composer = _Composer(text, file)
    try:
        return composer.document(), composer.problems
    except yaml.MarkedYAMLError as error:
        last = composer.syntax_error(error)
    except yaml.reader.ReaderError as error:
        place = composer.place_at(len(text.encode()[: error.position].decode(errors="ignore")))
        last = fail(ConfigSyntaxError, place, f"character {chr(int(error.character))!r} is not allowed in YAML")
    except ConfigSyntaxError as error:
        last = error
    raise ConfigSyntaxError([*composer.problems, *last.problems]) from None


def _spaced(joined: re.Match[str]) -> str:
    return f"write '{joined['key']}: {joined['value']}', with a space after the colon"


def _describe_odd(character: str) -> tuple[str, str]:
    """Return the message about a character that looks like a space or a colon, and the remedy."""
    plain = "colon" if character in _COLONS else "space"
    name = unicodedata.name(character, "character").lower().replace("fullwidth", "full-width")
    article = "an" if name[0] in "aeiou" else "a"
    return f"{article} {name} (U+{ord(character):04X}) is not the {plain} that YAML needs", f"write a plain {plain}"


class _Composer:
    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.lines = _BREAK.split(text)
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node | None] = {}  # None while the anchored node is being composed
        self.depth = 0
        self.count = 0
        self.events: Iterator[Event] = yaml.parse(text, Loader=_LOADER)

    def document(self) -> Node:
        """Read stream start, one document and stream end."""
        next(self.events)
        start = next(self.events)
        if isinstance(start, yaml.StreamEndEvent):
            raise fail(ConfigSyntaxError, Place(self.file, 1, 1), "the file is empty", code="empty")
        root = self.node(next(self.events))
        next(self.events)
        after = next(self.events)
        if isinstance(after, yaml.DocumentStartEvent):
            raise fail(ConfigSyntaxError, self.place(after), "a second document starts here", fix="keep one per file")
        return root

    def node(self, event: Event) -> Node:
        """Return the node that starts with `event`."""
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.depth += 1
        self.count += 1
        if self.count > MAX_NODES:
            raise fail(ConfigSyntaxError, self.place(event), f"more than {MAX_NODES:,} values", code="too_large")
        if self.depth > MAX_DEPTH:
            raise fail(ConfigSyntaxError, self.place(event), f"nested more than {MAX_DEPTH} deep", code="too_large")
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(event)
        else:
            node = self.mapping(event)
        self.depth -= 1
        if node.size > MAX_NODES:
            message = f"expands to more than {MAX_NODES:,} values through its aliases"
            raise fail(ConfigSyntaxError, node.place, message, code="too_large")
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: Event) -> Node:
        """Return the node that an alias names, with the position of its anchor."""
        if event.anchor not in self.anchors:
            raise fail(ConfigSyntaxError, self.place(event), f"alias *{event.anchor} has no anchor before it")
        target = self.anchors[event.anchor]
        if target is None:
            raise fail(ConfigSyntaxError, self.place(event), f"alias *{event.anchor} is inside its own anchor")
        return target

    def scalar(self, event: Event) -> Node:
        """Return a scalar of YAML 1.2; quoted and block scalars are strings."""
        place = self.place(event)
        tag = self.tag(event)
        if tag == "str" or (tag is None and not event.implicit[0]):
            return Node(event.value, place)
        text = self.plain_text(event)
        try:
            value = resolve_scalar(text)
            if tag is not None and tag != {int: "int", float: "float", bool: "bool"}.get(type(value), "null"):
                value = float(text) if tag == "float" else int(text)
        except ValueError as error:
            raise fail(ConfigSyntaxError, place, f"not a number that can be read: {error}") from None
        return Node(value, place, text=None if isinstance(value, str) else text)

    def plain_text(self, event: Event) -> str:
        """Return a scalar; in a plain one, no-break spaces and the like around it or after its colon are reported."""
        text: str = event.value
        if text.isascii() or not event.implicit[0]:
            return text
        body = text.rstrip(f" {_SPACES}")
        colon = _ODD_COLON.match(text)
        odd = [0, *range(len(body), len(text)), *([colon.end() - 1] if colon else [])]
        index = next((index for index in odd if text[index] in _SPACES), None)
        if index is not None:
            place, (message, fix) = self.place(event), _describe_odd(text[index])
            self.note(replace(place, column=(place.column or 1) + index, width=1), message, "syntax", fix)
        return body.lstrip(f" {_SPACES}")

    def sequence(self, event: Event) -> Node:
        """Return a list."""
        self.tag(event)
        items = []
        while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(item))
        return Node(items, self.place(event), size=1 + sum(node.size for node in items))

    def mapping(self, event: Event) -> Node:
        """Return a mapping with unique text keys; `<<` merges other mappings as defaults."""
        self.tag(event)
        entries: dict[str, Node] = {}
        merges: list[Node] = []
        while not isinstance(item := next(self.events), yaml.MappingEndEvent):
            named = self.key(item)
            key, key_place = str(named.value) if named.text is None else named.text, named.place
            if len(entries) == MAX_KEYS:
                raise fail(ConfigSyntaxError, key_place, f"a mapping of more than {MAX_KEYS:,} keys", code="too_large")
            node = self.node(next(self.events))
            if event.flow_style and node.value is None and item.implicit[0]:
                if self.is_rest_of_number(key, key_place, entries):
                    continue
                key, node = self.whole_entry(key, node, key_place)
            if not isinstance(named.value, str):
                self.note(key_place, f"the key {key!r} is not text", "key", f'quote it: "{key}"')
            if key == "<<" and item.implicit[0]:
                merges += self.merge_sources(node, key_place)
            elif key in entries:
                first = entries[key].key_place
                line = first.line if first else "?"
                self.note(
                    key_place, f"duplicate key {key!r}, already at line {line}", "duplicate_key", "keep one of them"
                )
            else:
                entries[key] = replace(node, key_place=key_place)
        for source in merges:
            entries = {**source.entries, **entries}
        return Node(entries, self.place(event), size=1 + sum(node.size for node in entries.values()))

    def whole_entry(self, key: str, node: Node, place: Place) -> tuple[str, Node]:
        """Split a word in braces that has no value: `d_model:64` is reported, and read as meant."""
        if joined := _JOINED.fullmatch(key):
            self.note(place, f"{key!r} is one word", "syntax", _spaced(joined))
        elif (joined := _ODD_JOINED.fullmatch(key)) is None:
            return key, node
        elif joined["odd"] in _COLONS:
            message, fix = _describe_odd(joined["odd"])
            self.note(replace(place, column=(place.column or 1) + joined.start("odd")), message, "syntax", fix)
        try:
            return joined["key"], Node(resolve_scalar(joined["value"]), place)
        except ValueError:
            return joined["key"], Node(joined["value"], place)

    def is_rest_of_number(self, key: str, place: Place, entries: dict[str, Node]) -> bool:
        """Return True for digits that a comma cut off in braces: `{d_model: 1,024}` is reported, and read as meant."""
        name, before = next(reversed(entries.items()), ("", None))
        if before is None or type(before.value) is not int or not re.fullmatch("[0-9]{1,15}", key):
            return False
        if abs(before.value) > _LARGEST:
            return False
        is_thousands = before.value != 0 and len(key) == 3
        meant = int(f"{before.value}{key}") if is_thousands else float(f"{before.value}.{key}")
        message = f"in braces a comma ends a value, so {name} is {before.text or before.value} and {key} another key"
        self.note(place, message, "syntax", f"write {name}: {meant}")
        entries[name] = replace(before, value=meant, text=f"{meant}")
        return True

    def key(self, event: Event) -> Node:
        """Return a key as a scalar, whose text is the key; lists and mappings are refused as keys."""
        if isinstance(event, yaml.AliasEvent) or not isinstance(event, yaml.ScalarEvent):
            raise fail(ConfigSyntaxError, self.place(event), "a key must be plain text")
        return self.scalar(event)

    def merge_sources(self, node: Node, place: Place) -> list[Node]:
        """Return the mappings that `<<` merges; the first of a list wins."""
        sources = node.value if isinstance(node.value, list) else [node]
        if not all(isinstance(source.value, dict) for source in sources):
            raise fail(ConfigSyntaxError, place, "a merge key takes a mapping or a list of mappings", fix="<<: *anchor")
        return list(sources)

    def tag(self, event: Event) -> str | None:
        """Return the short name of an explicit standard tag, None without a tag; other tags are reported."""
        if event.tag is None:
            return None
        if event.tag == "!":
            return "str"
        if event.tag not in _TAGS:
            name = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.note(self.place(event), f"tag {name} is not allowed", "tag", "plain YAML only")
        return _TAGS.get(event.tag)

    def note(self, place: Place, message: str, code: str, fix: str) -> None:
        """Record a problem that does not stop reading; raises ConfigSyntaxError after MAX_PROBLEMS."""
        if len(self.problems) == MAX_PROBLEMS:
            raise fail(ConfigSyntaxError, place, f"reading stops here, after {MAX_PROBLEMS} problems", code="too_large")
        self.problems += fail(ConfigSyntaxError, place, message, code=code, fix=fix).problems

    def place(self, event: Event) -> Place:
        """Return the position of an event, with its source line."""
        start, end = event.start_mark, event.end_mark
        width = end.column - start.column if end.line == start.line else 1
        return self.place_of(start.line, start.column, width)

    def place_of(self, line: int, column: int, width: int = 1) -> Place:
        text = self.lines[line] if line < len(self.lines) else ""
        return Place(self.file, line + 1, column + 1, text, max(1, width))

    def place_at(self, index: int) -> Place:
        before = self.text[:index]
        line = before.count("\n")
        return self.place_of(line, index - (before.rfind("\n") + 1))

    def odd_character(self, first: int, last: int) -> tuple[Place, str, str] | None:
        """Find a character in these lines, the last one first, that looks like a space or a colon of YAML."""
        for number in range(min(last, len(self.lines)), max(first, 1) - 1, -1):
            text = re.split("[\"'#]", self.lines[number - 1], maxsplit=1)[0]
            if not text.isascii() and (found := _ODD.search(text)) is not None:
                index = found.lastindex or 0
                return self.place_of(number - 1, found.start(index)), *_describe_odd(found[index])
        return None

    @staticmethod
    def context(error: yaml.MarkedYAMLError) -> str:
        """Describe the construct that was being read, and its first line."""
        if not error.context:
            return ""
        return f" ({error.context}" + (f" from line {error.context_mark.line + 1})" if error.context_mark else ")")

    def syntax_error(self, error: yaml.MarkedYAMLError) -> ConfigError:
        """Convert an error of the parser to a message for someone who edits files."""
        mark = error.problem_mark or error.context_mark
        place = self.place_of(mark.line, mark.column) if mark else Place(self.file, 1, 1)
        text = place.text or ""
        leading = text[: len(text) - len(text.lstrip())]
        first = min(error.context_mark.line + 1 if error.context_mark else place.line or 1, (place.line or 1) - 1)
        fix = None
        if "\t" in leading:
            message, fix = "a tab cannot indent YAML", "use spaces"
            place = replace(place, column=text.index("\t") + 1)
        elif odd := self.odd_character(first, place.line or 1):
            place, message, fix = odd
        else:
            message = f"not YAML: {error.problem}" + self.context(error)
            if "mapping values are not allowed" in message:
                before = next((line for line in reversed(self.lines[: (place.line or 1) - 1]) if line.strip()), "")
                joined = _JOINED.fullmatch(before.strip().removeprefix("- "))
                fix = f"line before: {_spaced(joined)}" if joined else _ONE_A_LINE
        return fail(ConfigSyntaxError, place, message, fix=fix)
