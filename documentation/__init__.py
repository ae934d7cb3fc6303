"""What `docs/` takes from the code: the reference of every key, and the pictures. `python -m documentation` writes them.

Text that people write is in `docs/`; here is only what can be read off the code. No other room imports it.
"""
