"""How Sphinx builds these pages: `make docs`. Nothing is fetched."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # reference.py
import pattlite_dist

project = "pattlite_dist"
author = "The pattlite_dist authors"
version = release = pattlite_dist.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pattlite_dist {release}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
myst_heading_anchors = 3  # links to headings, as GitHub makes them
default_role = "literal"  # of `this` in docstrings
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
