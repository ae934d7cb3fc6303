"""The whole experiment: all sections of one file, checked, printed, summarised and built.

Checks between sections are here; checks within a section are with its types. `config` and its imports do not import torch.
Only `command` and `demo`, which belong to the command line, import training or evaluation.
"""
