"""Mutation testing of the mathematics: small faults are put into it, and a test must fail for each.

    settings      which files are mutated and which tests may notice
    operators     the mutants of a file, by the operators of mutmut
    exclusions    those that cannot mean anything, by reason
    named         faults of this field, written by hand, each with the test that must notice
    patching      a fault put into the running process
    session       pytest once, then a forked child for each mutant
    touched       which tests run which lines, and for how long
    results       what became of each mutant, on disk
    report        the tables of docs/mutation.md

`python -m mutation` runs it; docs/mutation.md says how, and what was found. No room imports it but tests.
"""
