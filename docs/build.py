"""Write the documentation into ``site/``: README, guides, and the API reference from the docstrings.

    pip install -e '.[docs]' && python docs/build.py

Needs no network. The reference has every module of ``dsn``; what begins with _ is left out.
"""

import pkgutil
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pdoc
from pdoc.render_helpers import to_html

import dsn

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
pre,code{{background:#f4f4f4}}
pre{{padding:.7em;overflow:auto}}table{{border-collapse:collapse;display:block;overflow:auto}}
td,th{{border-bottom:1px solid #ddd;padding:.2em .7em;text-align:left}}nav a{{margin-right:1em}}</style>
<nav>{links}</nav>
{body}
"""


def main(out: Path) -> None:
    """Write all pages into ``out``."""
    names = [dsn.__name__, *(found.name for found in pkgutil.walk_packages(dsn.__path__, "dsn."))]
    for name in names:
        import_module(name)
    for name in dsn.__all__:  # they are imported when they are first used, which pdoc does not do
        setattr(dsn, name, getattr(dsn, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a package without __all__ names its modules once more
        pdoc.pdoc(*names, output_directory=out / "api")
    links = " ".join(f'<a href="{page_of(guide)}">{guide.stem}</a>' for guide in GUIDES)
    links += ' <a href="api/dsn.html">API</a>'
    for guide in GUIDES:
        text = guide.read_text(encoding="utf-8")
        text = re.sub(r"\]\((?:docs/)?(\w+)\.md(#[^)]*)?\)", r"](\1.html\2)", text)
        page = PAGE.format(title=guide.stem, links=links, body=to_html(text))
        (out / page_of(guide)).write_text(page.replace('"README.html', '"index.html'), encoding="utf-8")


def page_of(guide: Path) -> str:
    """The file of a guide's page."""
    return "index.html" if guide.stem == "README" else f"{guide.stem}.html"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
