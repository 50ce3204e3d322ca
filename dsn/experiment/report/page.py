"""The report as one page that opens from disk: no request leaves it."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .figures.palette import DARK, css_name
from .sections import StreamReport
from .source import Source
from .tables import ranks_table


def page(source: Source, reports: list[StreamReport]) -> str:
    """The text of ``report.html``."""
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["kind"] = lambda block, kind: type(block).__name__ == kind
    environment.filters["svg"] = Markup
    script = _text("page.js")
    return environment.get_template("page.html.j2").render(
        source=source,
        reports=reports,
        ranks=ranks_table(source.comparison) if source.comparison else None,
        script=Markup(script),
        script_hash=_hash(script),
        style=Markup(_style()),
    )


def _style() -> str:
    """The style sheet, with the figures' colours in light and dark from the one palette."""
    light = "".join(f"{css_name(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"{css_name(colour)}:{other};" for colour, other in DARK.items())
    return _text("style.css").replace("/*light figures*/", light).replace("/*dark figures*/", dark)


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _text(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")
