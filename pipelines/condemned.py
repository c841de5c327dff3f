"""Parts of a night that the probe refused: no later night takes their receipts for done.

A receipt proves that a part's files are whole, not that the software that made them was sound. What a drifted
night embedded would be taken over by the next one, whose own software is sound again and whose probe passes.
So the parts are named here, and made again under other names. Nothing is deleted: another run may have
published them, and what was refused stays readable for who must find out why.
"""

from collections.abc import Iterable

from pipelines.lake import Lake, to_json
from pipelines.repair import unit_names

FOLDER = "condemned"


def condemn(lake: Lake, model: str, parts: Iterable[str], snapshot: str) -> None:
    """Note that parts of a model are not to be taken for done, and in which snapshot they were refused."""
    for part in parts:
        lake.store.put_if_absent(f"{FOLDER}/{model}/{part}.json", to_json({"refused": snapshot}))


def condemned_parts(lake: Lake, model: str) -> frozenset[str]:
    """Return the names of a model's parts that are not to be taken for done."""
    return unit_names(list(lake.store.list_names(f"{FOLDER}/{model}")))
