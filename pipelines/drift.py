"""How far two sets of vectors of the same pictures are apart, and how far they may be."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.parts import NORM_TOLERANCE
from pipelines.quality import NEIGHBOURS, Gate, GateOptions

PROBE = "probe"
"""First word of the gates that compare one model with itself."""
TIE = 1e-6
SMALLEST_NORM = 1e-12


@dataclass(frozen=True, slots=True)
class Moved:
    """How far two sets of vectors of the same pictures are apart, under one attribute."""

    overlap: float
    """Share of each picture's 10 nearest among the others that both agree on, mean over the pictures."""
    norm: float
    """Largest difference of a picture's norms."""
    min_cosine: float | None
    """Of a picture's two vectors; None where their dimensions differ."""
    mean_cosine: float | None
    num_not_finite: int
    """Pictures with a component that is not finite in either; their vectors count as zero above."""


def compare_vectors(new: np.ndarray, old: np.ndarray) -> Moved:
    """Compare two sets of vectors of the same N pictures, N at least 1.

    Args:
        new: [N, D].
        old: [N, E].
    """
    finite = np.isfinite(new).all(axis=1) & np.isfinite(old).all(axis=1)
    new, old = (np.where(finite[:, None], vectors, 0) for vectors in (new, old))
    norms = np.linalg.norm(new, axis=1), np.linalg.norm(old, axis=1)
    cosines = None
    if new.shape == old.shape:
        cosines = (new * old).sum(axis=1) / np.maximum(norms[0] * norms[1], SMALLEST_NORM)
    return Moved(
        neighbour_overlap(new, old),
        float(np.abs(norms[0] - norms[1]).max()),
        None if cosines is None else float(cosines.min()),
        None if cosines is None else float(cosines.mean()),
        int((~finite).sum()),
    )


def neighbour_overlap(new: np.ndarray, old: np.ndarray) -> float:
    """Return the share of each picture's 10 nearest under `new` that are so under `old`, mean over pictures.

    By score, so that a tie counts as agreed. Where N is at most 11 all others are the nearest, and everything
    agrees.

    Args:
        new: [N, D] unit vectors.
        old: [N, E] unit vectors of the same pictures.
    """
    k = min(NEIGHBOURS, len(new) - 1)
    if k < 1:
        return 1.0
    scores = [vectors @ vectors.T for vectors in (new, old)]
    for each in scores:
        np.fill_diagonal(each, -np.inf)
    nearest = np.argpartition(-scores[0], k - 1, axis=1)[:, :k]
    least = np.sort(scores[1], axis=1)[:, -k]
    return float((np.take_along_axis(scores[1], nearest, axis=1) >= least[:, None] - TIE).mean())


def drift_gates(moved: Mapping[str, Moved], refused: Mapping[str, str], bounds: GateOptions) -> list[Gate]:
    """Judge pictures against their stored vectors of the same model.

    Args:
        moved: by attribute.
        refused: by digest, why a picture that was embedded before cannot be decoded now.
        bounds: what is allowed.
    """
    first = next((f"{digest[:12]}…: {why}" for digest, why in refused.items()), "")
    gates = [Gate(f"{PROBE} decoded", not refused, len(refused), "== 0", first)]
    if not moved:
        return gates
    lost = max(found.num_not_finite for found in moved.values())
    norm = max(found.norm for found in moved.values())
    gates += [
        Gate(f"{PROBE} finite", lost == 0, lost, "== 0"),
        Gate(f"{PROBE} norm", norm <= NORM_TOLERANCE, round(norm, 6), f"<= {NORM_TOLERANCE}"),
    ]
    for attribute, found in moved.items():
        cosine = -1.0 if found.min_cosine is None else found.min_cosine
        mean = "other dimensions" if found.mean_cosine is None else f"mean {found.mean_cosine:.6f}"
        gates.append(
            Gate(
                f"{PROBE} cosine {attribute}",
                cosine >= bounds.min_probe_cosine,
                round(cosine, 6),
                f">= {bounds.min_probe_cosine}",
                f"{mean}, overlap@{NEIGHBOURS} {found.overlap:.3f}",
            )
        )
    return gates


def sample_gates(moved: Mapping[str, Moved], num_parts: int, bounds: GateOptions) -> list[Gate]:
    """Judge a picture of each new part against its stored vectors, under all attributes together.

    Args:
        moved: by attribute.
        num_parts: parts that were asked.
        bounds: what is allowed.
    """
    cosines = [-1.0 if found.min_cosine is None else found.min_cosine for found in moved.values()]
    if not cosines:
        return []
    return [
        Gate(
            f"{PROBE} new parts",
            min(cosines) >= bounds.min_probe_cosine,
            round(min(cosines), 6),
            f">= {bounds.min_probe_cosine}",
            f"a picture of each of {num_parts} parts",
        )
    ]


def has_drifted(gates: Iterable[Gate]) -> bool:
    """Tell whether a gate of the probe failed, so that nothing embedded tonight is to be believed."""
    return any(gate.name.startswith(PROBE) and not gate.passed for gate in gates)


def model_gates(moved: Mapping[str, Moved], bounds: GateOptions) -> list[Gate]:
    """Judge pictures under a new model against their stored vectors of the old one, by attribute."""
    return [
        Gate(
            f"model overlap@{NEIGHBOURS} {attribute}",
            found.overlap >= bounds.min_model_overlap,
            round(found.overlap, 4),
            f">= {bounds.min_model_overlap}",
            "other dimensions"
            if found.mean_cosine is None
            else f"mean cosine old to new {found.mean_cosine:.4f}",
        )
        for attribute, found in moved.items()
    ]
