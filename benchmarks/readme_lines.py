"""The lines of README's table of speed: what each shows of a script's figures, and what was asked of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """What was asked of a figure."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    why: str = ""
    """Where it was missed before: what the limit is."""

    def is_met(self, value: float) -> bool:
        """Tell whether a value is within it."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    @property
    def text(self) -> str:
        """The bound in words."""
        return f"{self.at_least:g} or more" if self.at_least is not None else f"{self.at_most:g} or less"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table."""

    run: str
    """Which run of a script it reads."""
    what: str
    shown: Sequence[str]
    """Pieces of text with figures' names in braces; one whose figure is missing is left out."""
    against: str = ""
    asked: tuple[Bound, ...] = ()

    def found(self, figures: Mapping[str, float]) -> str:
        """Return what was found; "nothing" where no figure is there."""
        pieces = []
        for piece in self.shown:
            try:
                pieces.append(piece.format(**figures))
            except KeyError:
                continue
        return ", ".join(pieces) or "nothing"

    def missed(self, figures: Mapping[str, float]) -> list[Bound]:
        """Return what was asked, is there, and not met."""
        return [
            each for each in self.asked if each.figure in figures and not each.is_met(figures[each.figure])
        ]


LINES = (
    Line(
        "embedder",
        "all attributes in one pass",
        ("{ratio_bfloat16:.1f} times in bfloat16", "{ratio_float32:.1f} in float32"),
        "the network once for each, float32",
    ),
    Line(
        "sharding",
        "files into tars as they are",
        ("{ratio_as_is:.2f} times", "{share_of_floor_as_is:.2f} of the floor"),
        "img2dataset 1.47; `cat`, then `sha256sum`",
        (Bound("ratio_as_is", at_least=2), Bound("share_of_floor_as_is", at_least=0.5)),
    ),
    Line(
        "sharding",
        "files into tars at 256 pixels",
        ("{ratio_resize:.2f} times",),
        "img2dataset 1.47",
        (
            Bound(
                "ratio_resize",
                at_least=3,
                why="decoding and encoding take most of a picture's time; both cores used equally give 2.5",
            ),
        ),
    ),
    Line(
        "line",
        "tar to Parquet and FAISS",
        ("{share_of_bare_model:.2f}",),
        "the bare embedder, same cores",
        (
            Bound(
                "share_of_bare_model",
                at_least=0.9,
                why="the cores that run the model also decode, so nothing hides behind it",
            ),
        ),
    ),
    Line(
        "line",
        "the same, its start included",
        ("{ratio_ray_data:.2f} times",),
        "Ray Data, tar to Parquet alone",
        (
            Bound(
                "ratio_ray_data",
                at_least=1.2,
                why="both start actors that import PyTorch; the fewer pictures, the more that weighs",
            ),
        ),
    ),
    Line(
        "line",
        "peak memory of 4 times the pictures",
        ("{peak_gib_4x_over_1x:.2f} times",),
        "once",
        (Bound("peak_gib_4x_over_1x", at_most=1.1),),
    ),
    Line(
        "train",
        "training, batch sampling",
        ("{ratio_plain_loop:.2f} times", "paper sampling in float32 {ratio_plain_loop_float32:.2f}"),
        "a plain loop: three forward passes",
    ),
    Line(
        "train",
        "training that waits for pictures",
        ("{waiting_share:.1%}",),
        "",
        (Bound("waiting_share", at_most=0.05),),
    ),
    Line(
        "index",
        "building exact search",
        (
            "{ratio_build_exact_roomy:.3g} times",
            "in {memory_ratio_exact_roomy:.2f} of the bytes",
            "recall {recall_exact:.3f}",
        ),
        "autofaiss, ample memory",
    ),
    Line(
        "index",
        "building inverted lists",
        (
            "{ratio_build_lists_roomy:.2f} times",
            "in {memory_ratio_lists_roomy:.2f} of the bytes",
            "recall {recall_lists:.3f}",
        ),
        "autofaiss, ample memory",
    ),
    Line(
        "index",
        "building compressed lists",
        (
            "{ratio_build_compressed_tight:.2f} times",
            "in {memory_ratio_compressed_tight:.2f} of the bytes",
            "at least {least_ratio_build_compressed_tight:.1f} times (given up)",
            "recall {recall_compressed:.3f}",
        ),
        "autofaiss, an eighth of float16",
    ),
    Line(
        "search",
        "one query, lists",
        ("p50 {p50_ms:.1f} ms", "p99 {p99_ms:.1f} ms", "recall {recall:.3f}"),
    ),
    Line(
        "search compressed",
        "one query, compressed lists",
        (
            "p50 {p50_ms:.1f} ms",
            "p99 {p99_ms:.1f} ms",
            "recall {recall:.3f}",
            "{memory_bytes_per_vector:.0f} bytes of memory a vector",
        ),
    ),
    Line(
        "serve",
        "search service, one replica",
        (
            "{requests_s:.0f} requests/s",
            "p99 {p99_ms:.0f} ms",
            "{share_of_floor:.2f} of the floor alone",
            "{failed_during_publish:.0f} failed while a night published",
        ),
        "`/healthz` and a bare search",
        (Bound("failed_during_publish", at_most=0),),
    ),
    Line(
        "parquet",
        "bytes of the embedding column",
        ("{bytes_over_float16:.2f} times float16's", "{bytes_over_default:.2f} of default settings"),
        "float16; default settings",
    ),
    Line(
        "parquet",
        "time to read it",
        (
            "DuckDB {duckdb_time_over_float16:.2f} and {duckdb_time_over_default:.2f} times",
            "pyarrow {pyarrow_time_over_float16:.2f} and {pyarrow_time_over_default:.2f}",
        ),
        "the same",
    ),
    Line(
        "growth",
        "a picture in 8 times the catalog",
        ("{work_per_image_8x_over_1x:.2f} times, of workers", "{per_image_8x_over_1x:.2f} by the wall"),
        "once",
        (Bound("work_per_image_8x_over_1x", at_most=1.1),),
    ),
    Line(
        "second_night",
        "a night of which 1% changed",
        (
            "{model_time_share_without_probe:.4f} of the model time without its probe",
            "{model_time_share:.3f} with it",
        ),
        "the first night",
        (Bound("model_time_share_without_probe", at_most=0.03),),
    ),
    Line(
        "scaling",
        "4 workers, simulated model",
        ("{efficiency_4:.3f}",),
        "4 times one",
        (Bound("efficiency_4", at_least=0.95),),
    ),
    Line(
        "plan",
        "the plan of a million records",
        ("{seconds:.1f} s", "{peak_gib:.2f} GiB"),
        "a tenth of 180 s; 4 GiB",
        (Bound("seconds", at_most=18), Bound("peak_gib", at_most=4)),
    ),
)
"""In README's order. `quality.py`'s, an hour of trainings, is none of them."""
