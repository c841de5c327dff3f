"""The search service: a published snapshot over HTTP, by Ray Serve and FastAPI."""
