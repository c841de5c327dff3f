"""What the routes call: searches, pictures and heat maps of the snapshot that answers.

Whatever computes or reads runs in threads: the event loop of a replica only passes requests on.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from ray import serve
from torch import Tensor

from agman.errors import BadSample
from agman.taxonomy import position_in
from agman.transforms import MAX_PIXELS
from pipelines.asking import Query, Question, ask, query_of_product, query_of_vectors
from pipelines.lake import Lake, bytes_sha256
from pipelines.query_model import QueryModel, Seen
from pipelines.serving import answers, metrics
from pipelines.serving.config import ServeConfig
from pipelines.serving.current import Current
from pipelines.serving.drawn import Drawn, Kept, draw_attention, draw_thumbnail
from pipelines.serving.loaded import Loaded
from pipelines.serving.refusals import Refusal, refusal_of_picture, refused_at

P = ParamSpec("P")
R = TypeVar("R")
WORKERS = 8
"""Threads for requests: what they wait for is mostly FAISS, Pillow and files, which let others run."""
KEPT_PICTURES_BYTES = 64 << 20
KEPT_MAPS_BYTES = 32 << 20
"""Of eight attributes and 224 pixels a picture's maps are 6 KB: those of 5,000 pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A search as a request states it."""

    weights: Mapping[str, float]
    k: int
    filters: Any
    exclude_same_product: bool
    include_absent: bool


class Service:
    """One replica's searches."""

    def __init__(self, config: ServeConfig, threads: int) -> None:
        """Load what is published.

        Args:
            config: of the service.
            threads: that the network and a search may take.

        Raises:
            InvalidInput, AgmanError: if nothing can be loaded, or the catalog has no such product column.
        """
        self.config = config
        torch.set_num_threads(threads)
        device = "cuda" if config.accelerator == "gpu" else "cpu"
        self.current = Current(Lake(config.lake), threads=threads, device=device, poll_s=config.poll_s)
        self._workers = ThreadPoolExecutor(WORKERS, "requests")
        # A picture of the most pixels takes some 300 MB while it is decoded.
        self._decoding = asyncio.Semaphore(max(2, threads))
        self._pictures = Kept(KEPT_PICTURES_BYTES)
        self._maps = Kept(KEPT_MAPS_BYTES)
        self._see = serve.batch(
            max_batch_size=config.batching.max_size, batch_wait_timeout_s=config.batching.wait_s
        )(self._see_batch)
        self.current.start()
        with self.current.use() as loaded:
            if config.product_column:
                position_in(config.product_column, list(loaded.searcher.products.own_columns), "column")

    def close(self) -> None:
        """End its threads."""
        self.current.close()
        self._workers.shutdown()

    async def search_key(self, loaded: Loaded, key: str, asked: Asked) -> answers.SearchAnswer:
        """Search with a product of the catalog."""
        return await self._run(self._search_key, loaded, key, asked)

    async def search_picture(self, loaded: Loaded, encoded: bytes, asked: Asked) -> answers.SearchAnswer:
        """Search with a picture that was sent."""
        question = await self._run(self._question, loaded, asked)
        seen = await self._look(loaded, encoded, self.config.limits.pixels)
        return await self._run(self._search_seen, loaded, seen, encoded, asked, question)

    async def products(self, loaded: Loaded, text: str, limit: int, offset: int) -> answers.Products:
        """Return a page of the catalog."""
        return await self._run(_page, loaded, text, limit, offset)

    async def row(self, loaded: Loaded, key: str) -> dict[str, Any]:
        """Return a product's row of the catalog.

        Raises:
            Refusal: if there is no such key.
        """
        return await self._run(_row_of, loaded, key)

    async def thumbnail(self, loaded: Loaded, row: Mapping[str, Any], height: int) -> Drawn:
        """Return a product's picture at a height."""
        name = f"{row['sha256']}-{height}"
        if (kept := self._pictures.get(name)) is not None:
            return Drawn(name, kept)
        encoded = await self._run(loaded.searcher.picture_of, row)
        async with self._decoding:
            drawn = await self._run(draw_thumbnail, encoded, height)
        self._pictures.put(name, drawn)
        return Drawn(name, drawn)

    async def attention_of_key(self, loaded: Loaded, row: Mapping[str, Any], attribute: str) -> Drawn:
        """Return where the network looked on a product's picture."""
        encoded = await self._run(loaded.searcher.picture_of, row)
        return await self._attention(loaded, encoded, attribute, row["sha256"], MAX_PIXELS)

    async def attention_of_picture(self, loaded: Loaded, encoded: bytes, attribute: str) -> Drawn:
        """Return where the network looked on a picture that was sent."""
        sha256 = await self._run(bytes_sha256, encoded)
        return await self._attention(loaded, encoded, attribute, sha256, self.config.limits.pixels)

    async def _attention(
        self, loaded: Loaded, encoded: bytes, attribute: str, sha256: str, max_pixels: int
    ) -> Drawn:
        names = loaded.model.attributes
        if attribute not in names:
            raise Refusal(
                422,
                "There is no such attribute.",
                where="attribute",
                expected=f"one of {', '.join(names)}",
                found=attribute[:80],
                do="GET /attributes lists them.",
            )
        place = f"{loaded.searcher.manifest.model}-{sha256}"
        kept = self._maps.get(place)
        if kept is None:
            seen = await self._look(loaded, encoded, max_pixels)
            kept = np.abs(seen.attention, dtype=np.float32).tobytes()
            self._maps.put(place, kept)
        side = int((len(kept) / 4 / len(names)) ** 0.5)
        maps = np.frombuffer(kept, np.float32).reshape(len(names), side, side)
        async with self._decoding:
            drawn = await self._run(draw_attention, encoded, maps[names.index(attribute)])
        return Drawn(f"{place}-{attribute}", drawn)

    async def _look(self, loaded: Loaded, encoded: bytes, max_pixels: int) -> Seen:
        """Let the network look at a picture, together with others that came at the same time."""
        try:
            async with self._decoding:
                pixels = await self._run(loaded.model.read, encoded, max_pixels=max_pixels)
        except BadSample as error:
            raise refusal_of_picture(error) from error
        seen: Seen = await self._see((loaded.model, pixels))
        return seen

    async def _see_batch(self, items: list[tuple[QueryModel, Tensor]]) -> list[Seen]:
        metrics.BATCH_PICTURES.observe(len(items))
        return await self._run(_see_all, items)

    def _question(self, loaded: Loaded, asked: Asked) -> Question:
        """Check what is asked.

        Raises:
            Refusal: if it cannot be answered.
        """
        with refused_at("attributes"):
            weights = loaded.searcher.check_weights(asked.weights)
        with refused_at("filters"):
            filters = loaded.searcher.products.filters_of(asked.filters)
        return Question(weights=weights, k=asked.k, include_absent=asked.include_absent, filters=filters)

    def _search_key(self, loaded: Loaded, key: str, asked: Asked) -> answers.SearchAnswer:
        row = _row_of(loaded, key)
        question = self._question(loaded, asked)
        query = query_of_product(loaded.searcher, row, list(question.weights))
        same = self._same_product(loaded, row) if asked.exclude_same_product else frozenset()
        return _answer(loaded, query, question, same)

    def _search_seen(
        self, loaded: Loaded, seen: Seen, encoded: bytes, asked: Asked, question: Question
    ) -> answers.SearchAnswer:
        query = query_of_vectors(loaded.searcher, seen.vectors)
        same = frozenset([bytes_sha256(encoded)]) if asked.exclude_same_product else frozenset[str]()
        return _answer(loaded, query, question, same)

    def _same_product(self, loaded: Loaded, row: Mapping[str, Any]) -> frozenset[str]:
        """Return the sha256 of the pictures of a product."""
        column = self.config.product_column
        value = row.get(column) if column else None
        others = frozenset[str]() if value is None else loaded.searcher.products.pictures_where(column, value)
        return others | {row["sha256"]}

    async def _run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, partial(function, *args, **kwargs))


def _answer(loaded: Loaded, query: Query, question: Question, same: frozenset[str]) -> answers.SearchAnswer:
    found = ask(loaded.searcher, query, replace(question, exclude=same))
    return answers.search_answer(loaded, query, found)


def _page(loaded: Loaded, text: str, limit: int, offset: int) -> answers.Products:
    return answers.products_answer(loaded, *loaded.searcher.page(text, limit, offset))


def _row_of(loaded: Loaded, key: str) -> dict[str, Any]:
    row = loaded.searcher.find(key)
    if row is None:
        raise Refusal(
            404,
            "The catalog has no such key.",
            where="key",
            expected="a key of the published snapshot",
            found=key[:200],
            do="GET /products?q= finds keys.",
        )
    return row


def _see_all(items: Sequence[tuple[QueryModel, Tensor]]) -> list[Seen]:
    """Look at pictures, those of one model together: around a swap there may be two."""
    seen: list[Seen | None] = [None] * len(items)
    for model in {id(model): model for model, _ in items}.values():
        places = [place for place, (asked, _) in enumerate(items) if asked is model]
        for place, found in zip(places, model.see([items[place][1] for place in places]), strict=True):
            seen[place] = found
    return [each for each in seen if each is not None]
