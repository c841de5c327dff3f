"""Pictures that were packed smaller than they came, and the models that saw them so: a pair, or refused.

A model shown pictures that went another way embeds them elsewhere: `benchmarks/sharding.py` says by how much.
"""

from agman.errors import InvalidInput
from agman.transforms import Preprocess
from pipelines.storage.snapshots import Manifest


def packed_side(manifest: Manifest) -> int:
    """Return the short side in pixels that a snapshot's larger pictures were scaled down to; 0: none was."""
    return int(manifest.config.get("shards", {}).get("resize", 0))


def check_model(model: str, preprocess: Preprocess, resize: int, where: str) -> None:
    """Refuse a model that was trained on pictures packed another way.

    Args:
        model: its id.
        preprocess: of the model.
        resize: what the pictures are packed with, as `ShardOptions.resize`.
        where: the pictures, for people.

    Raises:
        InvalidInput: if they differ.
    """
    if preprocess.packed_side != resize:
        raise InvalidInput(
            f"model {model}: expected pictures {_said(preprocess.packed_side)}, as it was trained on, found "
            f"{where} {_said(resize)}; set --shards.resize {preprocess.packed_side}, or train a model with "
            f"--shards.resize {resize}"
        )


def check_snapshot(manifest: Manifest, resize: int, lake_url: str) -> None:
    """Refuse to add pictures to a snapshot whose own are packed another way.

    Raises:
        InvalidInput: if they differ.
    """
    published = packed_side(manifest)
    if published != resize:
        raise InvalidInput(
            f"--shards.resize: expected {published}, with which the pictures of {lake_url} (snapshot "
            f"{manifest.id}) are packed, found {resize}; set it to {published}, or use another --lake, where "
            "all pictures are packed anew"
        )


def _said(side: int) -> str:
    return f"packed with --shards.resize {side}" if side else "packed as they came (--shards.resize 0)"
