"""Hook of mkdocs: converts formulas to MathML, which browsers render without a script.

GitHub reads `$...$` and `$$...$$` as well. MathJax or KaTeX would be a megabyte to fetch.
"""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])\s*</\1>', re.DOTALL
)


def on_page_content(page_html: str, **_: object) -> str:
    """Replace the formulas of a page; mkdocs calls this by name."""
    return _FORMULA.sub(_to_mathml, page_html)


def _to_mathml(match: re.Match[str]) -> str:
    tag, formula = match[1], html.unescape(match[2])
    is_block = tag == "div"
    mathml = convert(formula, display="block" if is_block else "inline")
    return f'<div class="formula">{mathml}</div>' if is_block else mathml
