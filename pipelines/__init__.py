"""The data pipeline around the network: sources, shards, embeddings, indexes, snapshots."""
