"""`model.pretrained`: the settings and weights of a run, or of a published model in a folder or on the hub.

`section` fills in the model's section while a file is checked, `published` reads checkpoints, which imports torch. This
package imports `model.checkpoints` and `data_manager.tokenizers`.
"""
