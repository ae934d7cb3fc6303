"""Side-by-side measurements against the packages that users could pick instead; results are in RESULTS.md."""
