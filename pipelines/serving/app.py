"""The routes of the service, and what stands before them."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Header, Query, Response, UploadFile
from fastapi import Path as InPath
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from pipelines.serving import answers, metrics, refusals
from pipelines.serving.asked import EXAMPLE_FILTERS, EXAMPLE_WEIGHTS, read_filters, read_weights, read_words
from pipelines.serving.config import MAX_K
from pipelines.serving.drawn import MAX_HEIGHT, MIN_HEIGHT, Drawn
from pipelines.serving.guards import BodyLimit, Token
from pipelines.serving.headers import SafeHeaders
from pipelines.serving.refusals import Refusal
from pipelines.serving.service import Asked, Service

PAGE = Path(__file__).with_name("page")
DEFAULT_K = 24
KEPT_S = 60
"""Seconds for which a browser shows a picture without asking: another night may bring another one."""
ABOUT = (
    "Find products that look alike in one attribute, or in several with weights, in a published snapshot. "
    'Every refusal is `{"error": {"what", "where", "expected", "found", "do"}}`.'
)
Key = Annotated[str, InPath(description="Key of a product; slashes may stand in it", max_length=1024)]
K = Annotated[int, Query(ge=1, le=MAX_K, description="Number of products")]
Attribute = Annotated[str, Query(description="Where the network looked for it", max_length=200)]
FilterText = Annotated[str, Query(description=f"Conditions on columns: {EXAMPLE_FILTERS}", max_length=8192)]
Height = Annotated[int, Query(ge=MIN_HEIGHT, le=MAX_HEIGHT, description="Pixels")]
Known = Annotated[str | None, Header(alias="If-None-Match")]
JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "The picture"},
    304: {"description": "The picture that the caller has"},
}


def build_app(service: Service, token: bytes | None) -> FastAPI:
    """Return the app of a replica.

    Args:
        service: what answers.
        token: digest of the token that requests must show; None: none.
    """
    app = FastAPIOffline(
        title="AG-MAN search",
        description=ABOUT,
        redoc_url=None,
        responses=refusals.DESCRIBED,
    )
    _add_state(app, service)
    _add_search(app, service)
    _add_products(app, service)
    _add_pictures(app, service)
    _add_attention(app, service)
    _add_page(app)
    refusals.install(app)
    # What is added last is met first.
    app.add_middleware(BodyLimit, max_bytes=service.config.limits.upload_bytes)
    if token is not None:
        app.add_middleware(Token, digest=token)
    app.add_middleware(SafeHeaders)
    app.add_middleware(metrics.Measured)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["state"])
    async def healthz() -> answers.Health:
        """Tell whether a snapshot is loaded."""
        with service.current.use() as loaded:
            return answers.Health(snapshot=loaded.id)

    @app.get("/snapshots/current", tags=["state"])
    async def current_snapshot() -> answers.Snapshot:
        """Tell which snapshot answers."""
        with service.current.use() as loaded:
            return answers.Snapshot(
                snapshot=loaded.id,
                model=loaded.searcher.manifest.model,
                published_at=loaded.pointer.published,
                num_products=loaded.searcher.num_products,
                attributes=len(loaded.attributes),
            )

    @app.get("/attributes", tags=["search"], response_model_exclude_unset=True)
    async def attributes() -> answers.Attributes:
        """Tell what can be asked about, and which columns of the catalog can be filtered by."""
        with service.current.use() as loaded:
            return answers.Attributes.model_validate(loaded.description)

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def exposition() -> Response:
        """Give the service's figures as Prometheus reads them."""
        return Response(metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _add_search(app: FastAPI, service: Service) -> None:
    @app.post("/search", tags=["search"], response_model=answers.SearchAnswer)
    async def search(
        attributes: Annotated[str, Form(description=f"Weights by attribute, as JSON: {EXAMPLE_WEIGHTS}")],
        picture: Annotated[UploadFile | None, File(description="A picture to search with")] = None,
        key: Annotated[str | None, Form(description="Or a product of the catalog", max_length=1024)] = None,
        k: Annotated[int, Form(ge=1, le=MAX_K, description="Number of products")] = DEFAULT_K,
        filters: Annotated[str, Form(description=f"Conditions as JSON: {EXAMPLE_FILTERS}")] = "",
        exclude_same_product: Annotated[
            bool, Form(description="Leave out the product that is searched with")
        ] = True,
        include_absent: Annotated[
            bool, Form(description="Also what the model says to lack an attribute of the query")
        ] = False,
    ) -> Response:
        """Search with a picture, or with a product of the catalog."""
        asked = Asked(
            weights=read_weights(attributes),
            k=k,
            filters=read_filters(filters),
            exclude_same_product=exclude_same_product,
            include_absent=include_absent,
        )
        if (picture is None) == (not key):
            raise Refusal(
                400,
                "A search is with one thing.",
                where="picture, key",
                expected="either a picture or a key",
                found="neither" if picture is None else "both",
            )
        with service.current.use() as loaded:
            if picture is not None:
                return _json(await service.search_picture(loaded, await picture.read(), asked))
            return _json(await service.search_key(loaded, str(key), asked))

    @app.get("/similar/{key:path}", tags=["search"], response_model=answers.SearchAnswer)
    async def similar(
        key: Key,
        attributes: Annotated[
            str, Query(description="neckline_design=0.7,sleeve_length=0.3", min_length=1, max_length=2048)
        ],
        k: K = DEFAULT_K,
        filters: FilterText = "",
        exclude_same_product: bool = True,
        include_absent: bool = False,
    ) -> Response:
        """Search with a product of the catalog."""
        asked = Asked(
            weights=read_words(attributes),
            k=k,
            filters=read_filters(filters),
            exclude_same_product=exclude_same_product,
            include_absent=include_absent,
        )
        with service.current.use() as loaded:
            return _json(await service.search_key(loaded, key, asked))


def _add_products(app: FastAPI, service: Service) -> None:
    @app.get("/products", tags=["search"], response_model=answers.Products)
    async def products(
        limit: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        q: Annotated[
            str, Query(description="That the key or a text of a product holds", max_length=200)
        ] = "",
    ) -> Response:
        """List products of the catalog, in the order of their keys."""
        with service.current.use() as loaded:
            return _json(await service.products(loaded, q, limit, offset))


def _add_pictures(app: FastAPI, service: Service) -> None:
    @app.get("/pictures/{key:path}", tags=["pictures"], response_class=Response, responses=JPEG)
    async def picture(key: Key, height: Height = 256, if_none_match: Known = None) -> Response:
        """Give a product's picture at a height, as JPEG."""
        with service.current.use() as loaded:
            row = await service.row(loaded, key)
            if _is_known(if_none_match, f"{row['sha256']}-{height}"):
                return _not_modified(f"{row['sha256']}-{height}")
            return _jpeg(await service.thumbnail(loaded, row, height))


def _add_attention(app: FastAPI, service: Service) -> None:
    @app.get("/attention/{key:path}", tags=["pictures"], response_class=Response, responses=JPEG)
    async def attention(key: Key, attribute: Attribute, if_none_match: Known = None) -> Response:
        """Give what the network saw of a product under a heat map of where it looked, as JPEG."""
        with service.current.use() as loaded:
            row = await service.row(loaded, key)
            drawn = await service.attention_of_key(loaded, row, attribute)
            return _not_modified(drawn.name) if _is_known(if_none_match, drawn.name) else _jpeg(drawn)

    @app.post("/attention", tags=["pictures"], response_class=Response, responses=JPEG)
    async def attention_of_upload(
        picture: Annotated[UploadFile, File(description="A picture")],
        attribute: Annotated[str, Form(max_length=200)],
    ) -> Response:
        """Give the same of a picture that is sent."""
        with service.current.use() as loaded:
            drawn = await service.attention_of_picture(loaded, await picture.read(), attribute)
            return Response(drawn.encoded, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


def _add_page(app: FastAPI) -> None:
    """Serve the files of the page, each at an address of its own: an unknown address stays unknown."""
    files = StaticFiles(directory=PAGE, html=True)
    names = [path.relative_to(PAGE).as_posix() for path in sorted(PAGE.rglob("*")) if path.is_file()]
    for name in ("", *names):
        app.router.routes.append(Route(f"/{name}", endpoint=files, include_in_schema=False))


def _json(answer: BaseModel) -> Response:
    """Return an answer as it is: the framework would look through its hundreds of values once more."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _jpeg(drawn: Drawn) -> Response:
    return Response(drawn.encoded, media_type="image/jpeg", headers=_kept(drawn.name))


def _not_modified(name: str) -> Response:
    return Response(status_code=304, headers=_kept(name))


def _is_known(if_none_match: str | None, name: str) -> bool:
    """Tell whether a caller has what is called so; a proxy on the way may have weakened its tag."""
    known = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return f'"{name}"' in known or "*" in known


def _kept(name: str) -> dict[str, str]:
    return {"ETag": f'"{name}"', "Cache-Control": f"private, max-age={KEPT_S}"}
