"""How Sphinx builds the documentation: `tox -e docs`.

Every page is plain Markdown, which reads the same where the code is hosted. Two things are made
here, so that they cannot be stale: a page for each command from its parser, and the API from the
docstrings. The README is the first page, and the pages follow in the order of its links.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from docutils.nodes import document
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import caffe_parity
from caffe_parity.cli.main import COMMANDS, parser

project = "caffe-parity"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "results/*.md"]
exclude_patterns = [".*", "build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
smartquotes = False  # it makes one dash of the two before an option
html_theme = "furo"
html_title = project
html_copy_source = False
default_role = "literal"  # docstrings have names in single backticks
autodoc_mock_imports = ["torch"]  # a gigabyte that no docstring needs
autodoc_typehints = "none"  # what an argument is stands in words
autodoc_preserve_defaults = True
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "member-order": "bysource"}

GENERATED = Path("docs/generated")
PICTURES = Path("docs/pictures")
FIRST = ("Layer", "python_layer", "net", "parametrize", "Comparison")
"""What a test file needs, before the rest."""


def command_page(name: str) -> str:
    """The page of one command, in MyST."""
    made = parser([name])
    [commands] = (each for each in made._actions if isinstance(each, argparse._SubParsersAction))
    made = commands.choices[name]
    usage = re.sub(r"^(usage: | {7})", "", made.format_usage(), flags=re.MULTILINE)
    lines = [f"# parity {name}", "", prose(made.description), "", "```text", usage.strip(), "```"]
    lines += ["", "```{program} " + f"parity {name}", "```", ""]
    words = made._get_formatter()
    for action in made._actions:
        if action.help != argparse.SUPPRESS:
            value = words._format_args(action, action.dest.upper())
            names = [f"{each} {value}".strip() for each in action.option_strings] or [value]
            said = words._expand_help(action) if action.help else ""
            lines += [":::{option} " + ", ".join(names), "", prose(said), ":::", ""]
    return "\n".join([*lines, prose(made.epilog), ""])


def prose(text: str | None) -> str:
    """Text that was written for a terminal, as Markdown that means the same."""
    parts = (text or "").split("\n\n")
    shown = (f"```text\n{each}\n```" if "\n " in f"\n{each}" else escaped(each) for each in parts)
    return "\n\n".join(shown)


def escaped(text: str) -> str:
    """A paragraph whose signs mean themselves, but for backticks."""
    pieces = text.split("`")
    pieces[::2] = (re.sub(r"([*_<\[\\])", r"\\\1", each) for each in pieces[::2])
    return "`".join(pieces)


def api_page() -> str:
    """All that `import caffe_parity` has."""
    lines = ["# import caffe_parity", "", "```{eval-rst}"]
    for name in dict.fromkeys([*FIRST, *caffe_parity.__all__]):
        kind = "class" if name[0].isupper() else "function"
        lines += [f".. auto{kind}:: caffe_parity.{name}", ""]
    return "\n".join([*lines, "```", ""])


def generate() -> None:
    """Writes the pages that are made from the code, before Sphinx looks which pages there are."""
    folder = ROOT / GENERATED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in COMMANDS:
        (folder / f"parity-{name}.md").write_text(command_page(name))
    (folder / "caffe_parity.md").write_text(api_page())


def contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Gives the first page the order of all: its own links, then what was generated."""
    if docname == root_doc:
        linked = re.findall(r"\]\(((?:docs/|results/)?\w+)\.md\)", source[0])
        made = sorted(f"{GENERATED}/{each.stem}" for each in (ROOT / GENERATED).iterdir())
        for caption, pages in (("Pages", dict.fromkeys(linked)), ("From the code", made)):
            tree = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]
            source[0] += "\n\n" + "\n".join(tree) + "\n"


def folders(app: Sphinx, page: document) -> None:
    """Takes a link to a folder of the code for its words: only where the code is, it can open."""
    folder = (ROOT / app.env.docname).parent
    for link in list(page.findall(pending_xref)):
        if link["reftype"] == "myst" and (folder / link["reftarget"]).is_dir():
            link.replace_self(link.children[0].children)


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Adds what Sphinx does not: an entrance, and the pictures that HTML in a page names."""
    if exception is None and app.builder.format == "html":
        out = Path(app.outdir)
        shutil.copytree(ROOT / PICTURES, out / PICTURES, dirs_exist_ok=True)
        (out / "index.html").write_text('<meta http-equiv="refresh" content="0; url=README.html">')


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    generate()
    app.connect("source-read", contents)
    app.connect("doctree-read", folders)
    app.connect("build-finished", finish)
