"""Shards: WebDataset tars with an index each."""
