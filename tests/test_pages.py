"""What all pages share: escaping, templates that fail loudly, pictures, one file with everything in it."""

import ast
import base64
from dataclasses import dataclass

import jinja2
import pytest
from conftest import ROOT
from test_report import Page

from dfdc.pages import data_uri, render

# Names of files that try to be markup, to end an attribute, to move a cursor, to turn text round; bytes that are none.
HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title><b-bad>",
    "a\" onerror='alert(1)' `x` {{ 7 * 7 }} {% raw %}",
    "fish & chips &lt;b&gt; &#60; &amp",
    "\x01bell\x07 \x1b[31mred\x7f\x9b",
    "a\u202egpj.exe\u2066 \u200fright\u200b\ufeff",
    "caf\udce9 \udcff.mp4",
]
PARTS = ["-->", "]]>", "javascript:alert(1)", "'", '"', "&", "<", ">"]


@dataclass(frozen=True)
class Named:
    name: str
    picture: bytes = b"\xff\xd8 a picture"


def as_written(name):
    """How a page holds it: only bytes that are no text are changed, to the digits of their code."""
    return name.encode(errors="backslashreplace").decode()


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "page.html.j2"
    path.write_text(
        '{% extends "base.html.j2" %}{% from "macros.html.j2" import bullets, card, image, tile %}'
        "{% block title %}{{ page.name }}{% endblock %}"
        '{% block body %}<p title="{{ page.name }}">{{ page.name }}</p>{{ image(page.picture, page.name) }}'
        "{% call card(page.name, page.name) %}{{ bullets([page.name]) }}{% endcall %}"
        "{{ tile(page.name, 1, page.name) }}{% endblock %}{% block footer %}{{ page.name }}{% endblock %}"
    )
    return path


@pytest.mark.parametrize("name", [*HOSTILE, "".join(HOSTILE + PARTS)])
def test_names_are_text_and_never_markup(template, name):
    page = Page(render(template, Named(name)).decode())  # fails at any tag or attribute that a name has made
    assert page.words.count(as_written(name)) == 7
    assert page.alts == [as_written(name)]


def test_what_a_view_model_lacks_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError, match="title"):
        template.write_text("{{ page.title }}")
        render(template, Named("a"))


def test_pictures_are_in_the_page(template):
    page = Page(render(template, Named("a")).decode())
    (source,) = page.sources
    assert source == data_uri(Named("a").picture)
    assert base64.b64decode(source.split(",")[1]) == Named("a").picture


def test_every_template_escapes_and_asks_for_nothing():
    templates = [*ROOT.glob("*/pages/*.j2"), *ROOT.glob("*/pages/*.css")]
    assert len(templates) >= 8
    for path in templates:
        text = path.read_text(encoding="utf-8")
        for word in ("|safe", "| safe", "autoescape", "<script", "http:", "https:", "url(", "@import", "<link"):
            assert word not in text, f"{path.name}: {word}"
        assert path.suffix != ".css" or "{#" not in text, "it is included as a template"
    for path in ROOT.glob("*/pages/*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "Markup" not in names or path.match("dfdc/pages/__init__.py"), "only pictures are safe as they are"
