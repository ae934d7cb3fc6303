"""Mutation testing of the mathematical code: insert small faults, each of which a test must detect.

    settings      mutated files and the test suites for them
    operators     the mutants of a file, by the operators of mutmut
    exclusions    mutants without an observable effect, by reason
    named         domain faults written by hand, each with the test that must detect it
    patching      insert a fault into the running process
    session       collect with pytest once, then fork a child for each mutant
    coverage_map  line coverage and duration of each test
    results       outcome of each mutant, on disk
    report        the tables of docs/mutation.md

Run it with `python -m tools.mutation`; docs/mutation.md has instructions and results. Only tests import this package.
"""
