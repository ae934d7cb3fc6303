"""The tables of documentation that say what fits what, from the registries themselves.

python -m model.diffusion_tables
"""

from model.diffusion_parts import OBJECTIVES, PROCESSES, SCHEDULES


def combinations_table() -> str:
    """Processes and objectives with the schedules and samplers that go with them, as Markdown."""
    lines = [
        "| process | objective | schedules | samplers, the default first | told sigma by default |",
        "| --- | --- | --- | --- | --- |",
    ]
    for process in PROCESSES:
        for objective in OBJECTIVES:
            entry = OBJECTIVES.get(objective)
            if process in entry.processes:
                samplers = ", ".join(PROCESSES.get(process).samplers)
                told = "yes" if entry.tells_time else "only a backbone of your own"
                cells = [process, objective, ", ".join(SCHEDULES), samplers, told]
            else:
                cells = [process, objective, "none", f"none: {objective} is made for {entry.processes[0]} noise", ""]
            lines.append("| " + " | ".join(cells).rstrip() + " |")
    return "\n".join(lines)


def samplers_table() -> str:
    """Samplers with the processes that they fit and their accuracy where the network is right, as Markdown."""
    from diffusion.samplers import SAMPLERS

    lines = ["| sampler | fits | default of | accuracy | what it does |", "| --- | --- | --- | --- | --- |"]
    for name, sampler in SAMPLERS.items():
        fits = [process for process in PROCESSES if name in PROCESSES.get(process).samplers]
        default = [process for process in fits if PROCESSES.get(process).samplers[0] == name]
        cells = [name, ", ".join(fits), ", ".join(default) or "-", sampler.accuracy, sampler.summary]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def filled(page: str, name: str, table: str) -> str:
    """A page's text with a table between its marks `<!-- table: NAME -->` and `<!-- end -->`; ValueError without them."""
    before, mark, rest = page.partition(f"<!-- table: {name} -->")
    _, end, after = rest.partition("<!-- end -->")
    if not mark or not end:
        raise ValueError(f"the page has no marks <!-- table: {name} --> and <!-- end -->")
    return f"{before}{mark}\n\n{table}\n\n{end}{after}"


if __name__ == "__main__":
    print(combinations_table(), samplers_table(), sep="\n\n")
