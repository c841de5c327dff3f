"""Entry points, one a file; see `recipes.py` for the named configurations."""
