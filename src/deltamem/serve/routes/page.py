"""The page at ``/``: plain files, and what they need to know of the server before they can ask it anything."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from deltamem.attach import attached
from deltamem.serve.routes.common import ServerOf

_FOLDER = Path(__file__).parents[1] / "web"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for every time, and sent only when changed: a new version of the server brings its own page.
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    """The page's files, which may load nothing from elsewhere."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Serves the page."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(_FOLDER / "index.html", headers=_HEADERS)

    @app.get("/page.json", include_in_schema=False)
    async def about(server: ServerOf) -> JSONResponse:
        # What anyone may know: no key is needed to ask.
        known = {
            "model": server.settings.model_name,
            "needs_key": server.access.required,
            "keeps_messages": server.store.keep_messages,
            "layers": attached(server.engine.model).layer_numbers(),
            "suggestions": server.settings.suggestions,
        }
        return JSONResponse(known, headers=_HEADERS)

    app.mount("/page", _Files(directory=_FOLDER), name="page")
