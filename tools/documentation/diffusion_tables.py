"""Tables for the documentation of which processes, objectives, schedules and samplers fit, from the registries.

python -m tools.documentation.diffusion_tables
"""

from model_factory.diffusion.registry import (
    OBJECTIVES,
    PROCESSES,
    SAMPLERS,
    SCHEDULES,
    default_sampler_name,
    samplers_of,
)


def render_combinations_table() -> str:
    """Return a Markdown table of processes and objectives with the schedules and samplers that fit."""
    lines = [
        "| process | objectives | schedules | samplers, the default first |",
        "| --- | --- | --- | --- |",
    ]
    for process in PROCESSES:
        groups: dict[tuple[str, ...], list[str]] = {}
        for objective in OBJECTIVES:
            if OBJECTIVES.get(objective).fits(PROCESSES.get(process)):
                groups.setdefault(samplers_of(process, objective), []).append(objective)
        for samplers, objectives in groups.items():
            cells = [process, ", ".join(objectives), ", ".join(SCHEDULES), ", ".join(samplers)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def render_samplers_table() -> str:
    """Return a Markdown table of samplers with the processes that they fit and their accuracy with an exact network."""
    lines = ["| sampler | fits | default of | accuracy | what it does |", "| --- | --- | --- | --- | --- |"]
    absorbing = {process: PROCESSES.get(process).absorbing for process in PROCESSES}
    for name in SAMPLERS:
        sampler = SAMPLERS.get(name)
        inserts = {"variable_length": sampler.variable_length}
        fits = [process for process in PROCESSES if sampler.fits(absorbing=absorbing[process], **inserts)]
        default = [process for process in fits if default_sampler_name(absorbing=absorbing[process]) == name]
        cells = [name, ", ".join(fits), ", ".join(default) or "-", sampler.accuracy, sampler.summary]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill_table(page: str, name: str, table: str) -> str:
    """Insert a table between `<!-- table: NAME -->` and `<!-- end -->` of a page; raise ValueError without these marks."""
    before, mark, rest = page.partition(f"<!-- table: {name} -->")
    _, end, after = rest.partition("<!-- end -->")
    if not mark or not end:
        raise ValueError(f"the page has no marks <!-- table: {name} --> and <!-- end -->")
    return f"{before}{mark}\n\n{table}\n\n{end}{after}"


if __name__ == "__main__":
    print(render_combinations_table(), render_samplers_table(), sep="\n\n")
