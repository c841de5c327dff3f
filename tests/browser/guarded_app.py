"""The service's app behind a token: python guarded_app.py LAKE PORT TOKEN.

Without Ray Serve, which only a search with an upload needs: it starts in a third of the time.
"""

import sys

import uvicorn

from pipelines.serving.app import build_app
from pipelines.serving.config import ServeConfig
from pipelines.serving.guards import token_digest
from pipelines.serving.service import Service

if __name__ == "__main__":
    lake, port, token = sys.argv[1:]
    service = Service(ServeConfig(lake=lake, port=int(port)), threads=1)
    uvicorn.run(build_app(service, token_digest(token)), port=int(port), log_level="error")
