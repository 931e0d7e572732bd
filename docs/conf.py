"""How the documentation is built; ``make docs`` does it with warnings as errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from insertions import connect

import veilsum

project = "veilsum"
author = "The veilsum developers"
copyright = "The veilsum developers, Apache-2.0"  # noqa: A001 -- Sphinx wants this name
release = version = veilsum.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "code"  # in docstrings `name` is code
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"veilsum {release}"
html_static_path: list[str] = []
exclude_patterns = ["_build"]
pygments_style = "friendly"


setup = connect
