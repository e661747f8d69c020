"""The page to try a model with: one file, which loads nothing but answers."""

import base64
import functools
import hashlib
import importlib.resources
import re

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

_INLINE = {"script": re.compile(r"<script>(.*?)</script>", re.S), "style": re.compile(r"<style>(.*?)</style>", re.S)}


@functools.cache
def page_text() -> str:
    """Returns the page."""
    return importlib.resources.files("mrt5_jax.serve").joinpath("page.html").read_text(encoding="utf-8")


@functools.cache
def page_policy() -> str:
    """Returns its content security policy: its own script and style run, and it asks this server alone."""
    sources = {
        name: " ".join(f"'sha256-{_sha256(text)}'" for text in pattern.findall(page_text()))
        for name, pattern in _INLINE.items()
    }
    return (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def page_response(request: HttpRequest) -> Response:
    """Answers with the page."""
    headers = {
        "content-security-policy": page_policy(),
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
    }
    return Response(page_text(), headers=headers, media_type="text/html")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
