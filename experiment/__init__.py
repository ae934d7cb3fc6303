"""One file, all sections: the whole checked experiment, how it is printed, summarised and built.

What one section asks of another is checked here; what a section says alone, where its types are. `config` and all that it
imports know no torch; nothing here but `demo`, which runs all verbs, imports the engine of training
or evaluation.
"""
