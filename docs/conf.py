"""Configuration of the documentation: `make docs` builds it in build/docs, and any warning is an error."""

import gzip
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import generated

project = "gpt2-search"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
html_theme = "furo"
html_title = "gpt2-search"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_copyright = False
default_role = "literal"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
# A console block may hold what no shell lexer knows, such as quotes within quotes.
suppress_warnings = ["misc.highlighting_failure"]
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
autodoc_member_order = "bysource"
autodoc_typehints = "description"


def setup(app: Sphinx) -> None:
    """Write the pages that are generated from code before Sphinx reads the sources; unpack the reports of the gallery after."""
    source, pages = Path(app.srcdir), Path(app.outdir)
    app.connect("builder-inited", lambda _: generated.write(source / "reference"))
    app.connect("build-finished", lambda *_: unpack(source / "gallery", pages / "gallery"))


def unpack(packed: Path, folder: Path) -> None:
    """Write the content of all gzip files below `packed` into the same folders below `folder`."""
    for path in packed.rglob("*.gz"):
        page = folder / path.relative_to(packed).with_suffix("")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(gzip.decompress(path.read_bytes()))
