"""What a trained run writes, and how good it is: samples, metrics, confidence intervals, reports.

Reads run folders and imports all below; only the commands and `pages/` import it. Nothing here trains or changes a run.
"""
