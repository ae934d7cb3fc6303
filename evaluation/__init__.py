"""What a trained run writes, and how good it is: samples, metrics, confidence intervals, reports."""
