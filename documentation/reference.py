"""The pages of `docs/reference/`: a table for each type of the file, generated from the types."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_manager.dataset_types import GlobalConfig
from data_manager.registry import SOURCES
from documentation.keys import Key, Part, Walk
from documentation.since import FILE, kept_text, versions
from model.parse_model_args import ModelHeader
from model.registry import MODELS
from training.config_types import GenerationConfig, TrainingConfig

FOLDER = "docs/reference"
NOTE = "<!-- Made by `python -m documentation` from the types; what is written here by hand is lost. -->"


@dataclass(frozen=True)
class Page:
    """A page of the reference; `about` stands below its title."""

    name: str
    title: str
    about: str


PAGES = (
    Page(
        "model",
        "model",
        "`model_type` picks the type: one of these three, [diffusion](diffusion.md), [latent_diffusion](latent.md) or one\n"
        "that you registered. It is required, and decides which other keys there are. `global_config`, of these three\n"
        "types, has keys of [model.encoder](#modelencoder), as defaults of the parts: a part's own value wins.",
    ),
    Page("diffusion", "model, of model_type diffusion", "How to use it: [discrete diffusion](../diffusion.md)."),
    Page("latent", "model, of model_type latent_diffusion", "How to use it: [latent diffusion](../latent.md)."),
    Page("datasets", "global_config and datasets", "How to use them: [your own data](../how_to/custom_dataset.md)."),
    Page("training", "training", "Keys are named as `transformers.TrainingArguments` names them."),
    Page("generation", "generation", "Read by `generate.py`, `evaluate.py` and the samples that training draws."),
)


def walked() -> dict[str, list[Part]]:
    """The parts of each page."""
    walk, pages = Walk(), {}

    def models(*names: str) -> None:
        walk.add_tagged("model", ((name, MODELS.get(name).config_type) for name in names))

    for page in PAGES:
        before = len(walk.parts)
        if page.name == "model":
            walk.add("model", ModelHeader)
            models("encoder", "decoder", "encoder_decoder")
        elif page.name == "diffusion":
            models("diffusion")
        elif page.name == "latent":
            models("latent_diffusion")
        elif page.name == "datasets":
            walk.add("global_config", GlobalConfig)
            walk.add_tagged("datasets", ((name, SOURCES.get(name).config_type) for name in SOURCES))
        else:
            walk.add(page.name, TrainingConfig if page.name == "training" else GenerationConfig)
        pages[page.name] = list(walk.parts.values())[before:]
    return pages


def reference() -> dict[str, str]:
    """Files of the repository to what they are to hold: the pages, and what is kept of versions."""
    parts = walked()
    every = [part for found in parts.values() for part in found]
    since = versions(f"{part.type.__name__}.{key.name}" for part in every for key in part.keys)
    links = {part.type: (name, part.heading) for name, found in parts.items() for part in found}
    files = {str(FILE.relative_to(FILE.parents[1])): kept_text(since)}
    for page in PAGES:
        writer = _Writer(page.name, links, since)
        tables = "\n".join(writer.part(part) for part in parts[page.name])
        files[f"{FOLDER}/{page.name}.md"] = f"# {page.title}\n\n{NOTE}\n\n{page.about}\n\n{tables}"
    return files


class _Writer:
    """Markdown of parts on one page."""

    def __init__(self, page: str, links: dict[type, tuple[str, str]], since: dict[str, str]) -> None:
        self.page, self.links, self.since = page, links, since

    def part(self, part: Part) -> str:
        lines = [f"## {part.heading}", "", _own_words(part), ""]
        if part.bases:
            lines += [f"It has the keys of {' and '.join(self.link(base) for base in part.bases)} too.", ""]
        if part.keys:
            lines += ["| key | meaning | type | unit | default | range | since |", "| --- " * 7 + "|"]
            lines += [self.row(part, key) for key in part.keys]
            lines.append("")
        return "\n".join(lines)

    def row(self, part: Part, key: Key) -> str:
        below = [self.link(model) for model in key.inside]
        meaning = key.meaning + (f" See {', '.join(below)}." if below else "")
        since = self.since[f"{part.type.__name__}.{key.name}"]
        cells = (f"`{key.name}`", meaning, key.type, key.unit or "–", key.default, key.range or "–", since)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def link(self, model: type) -> str:
        page, heading = self.links[model]
        return f"[{heading}]({'' if page == self.page else page + '.md'}#{slug(heading)})"


def _own_words(part: Part) -> str:
    text = inspect.cleandoc(part.type.__doc__ or "")
    return text if part.keys or part.bases else f"{text} No keys beside its name."


def slug(heading: str) -> str:
    """Anchor of a heading, as mkdocs and GitHub make it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def all_keys() -> Iterator[tuple[Part, Key]]:
    """Every key with its part."""
    for found in walked().values():
        for part in found:
            for key in part.keys:
                yield part, key
