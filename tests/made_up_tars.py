"""Tars of given pictures, without a lake around them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path


class Tar:
    """Pictures in a tar, as a shard has them."""

    def __init__(self, path: Path, encoded: Sequence[bytes]) -> None:
        """Remember the pictures; nothing is written yet."""
        self.path = path
        self.encoded = list(encoded)
        self.digests = [hashlib.sha256(body).hexdigest() for body in self.encoded]

    def write(self) -> str:
        """Write the tar and return where it is."""
        with tarfile.open(self.path, "w") as tar:
            for digest, body in zip(self.digests, self.encoded, strict=True):
                said = json.dumps({"role": "", "labels": {}}).encode()
                for name, content in ((f"{digest}.jpg", body), (f"{digest}.json", said)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return str(self.path)
