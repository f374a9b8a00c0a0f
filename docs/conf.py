"""How Sphinx builds the documents: `python -m sphinx -W -b html docs build/docs`, from the root of the repository."""

import sys
from pathlib import Path

import batchednodes

sys.path.insert(0, str(Path(__file__).parent))  # of the reference_pages beside this file

project = "batchednodes"
author = "The batchednodes authors"
copyright = author
release = version = batchednodes.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference_pages"]

myst_enable_extensions = ["attrs_inline", "deflist", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True  # what a notebook writes is gone with it, so that it can be built again
nb_execution_raise_on_error = True
nb_execution_timeout = 120

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"batchednodes {release}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_show_sourcelink = False
