"""Which code wrote something: the package's version and the digest of its sources."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import agman
import pipelines

DIGEST_LETTERS = 12


@cache
def code_version() -> str:
    """Return `<version>+<digest>`: the digest is of the sources of agman and pipelines, wherever they run.

    On a cluster the code comes by `ray job submit --working-dir .`, without git and without installation.
    """
    try:
        released = version("agman")
    except PackageNotFoundError:
        released = "0"
    digest = hashlib.sha256()
    for package in (agman, pipelines):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return f"{released}+{digest.hexdigest()[:DIGEST_LETTERS]}"
