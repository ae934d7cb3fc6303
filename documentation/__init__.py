"""What `docs/` takes from the code: the reference of every key, and the pictures. `python -m documentation` writes them."""
