"""Templates fill in, and do nothing else, however they are written."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.model.webhooks import templates
from heliograph.model.webhooks.templates import MOST_OUTPUT, MOST_TEMPLATE, BadTemplate, check, fill

VALUES: dict[str, Any] = {
    "issue": {"title": "Fix it", "labels": [{"name": "a"}, {"name": "b"}], "body": None},
    "text": "please",
    "big": "x" * 400_000,
}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{{ issue.title }}: {{ text|upper }}", "Fix it: PLEASE"),
        ("{{ issue.body }}{{ missing.deep.down }}|{{ missing|default('none') }}", "|none"),
        ("{% for l in issue.labels %}{{ l.name }}{{ ',' if not loop.last }}{% endfor %}", "a,b"),
        ("{{ issue.labels|map(attribute='name')|join(' + ') }}", "a + b"),
        ("{{ issue.labels }}", '[{"name":"a"},{"name":"b"}]'),
        ("{% if text in ['please', 'do'] %}yes{% else %}no{% endif %}", "yes"),
        ("{{ 'a' ~ text ~ 3 }} {{ 'a' + 'b' }} {{ 2 * 3 + 1 }}", "aplease3 ab 7"),
        ("{{ text.upper() }} {{ issue.get('title') }}", "PLEASE Fix it"),
        ("{{ text|replace('e', '3') }}\n", "pl3as3\n"),
        ("{% raw %}{{ x }}{% endraw %}{# no #}", "{{ x }}"),
        ("{{ text.__class__ }}{{ cycler }}{{ lipsum }}", ""),
    ],
)
def test_what_a_template_says(template: str, filled: str) -> None:
    """Values, conditions, loops and filters are filled in; what is not there is empty."""
    assert check(template) is None
    assert fill(template, VALUES) == filled


@pytest.mark.parametrize(
    "template",
    [
        *("{{ 2 ** 9999999 }}", "{% set x = 1 %}", "{% macro m() %}{% endmacro %}", "{% include 'x' %}"),
        *("{{ text.format(1) }}", "{{ ''.join(['a']) }}", "{{ text|center(99999999) }}", "{{ __turn__() }}"),
        *("{% for x in [[text, text]] %}{{ x }}{% endfor %}", "{{", "{% if %}", "{{ text|attr('x') }}"),
        "{% for a in text %}" * 4 + "{% endfor %}" * 4,
        "{% for a in issue recursive %}{{ loop(a) }}{% endfor %}",
        "x" * (MOST_TEMPLATE + 1),
        "{{ (" * 300 + "1" + ") }}" * 300,
        "{% import 'os' as os %}",
        "{% call text() %}{% endcall %}",
        "{% block b %}{% endblock %}",
        "{{ {'a': 1} }}",
        "{{ text.split().pop() }}",
    ],
)
def test_what_is_no_filling_in_is_refused_when_it_is_read(template: str) -> None:
    """Whatever could reach further, or grow without end, is no template; the check says so at once."""
    assert check(template)
    with pytest.raises(BadTemplate):
        fill(template, VALUES)


@pytest.mark.parametrize(
    "template",
    [
        *("{{ text * 999999999 }}", "{{ '%999999999d' % 3 }}", "{{ 1 / 0 }}", "{{ range(99999999)|sum }}"),
        *("{{ big ~ big ~ big }}", "{{ big + big + big }}", "{{ big|replace('x', 'xxxx') }}"),
        *("{{ big|replace('', 'xx') }}", "{{ big|list|join('xxxxxxxxxx') }}", "{{ text + 1 }}"),
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% for a in big %}{% endfor %}",
    ],
)
def test_what_asks_for_too_much_is_refused_when_it_is_filled(template: str) -> None:
    """A template that would take long, or say a gigabyte, ends with a reason instead."""
    assert check(template) is None
    with pytest.raises(BadTemplate, match="can't be filled"):
        fill(template, VALUES)


def test_the_output_has_an_end() -> None:
    """What a template says is cut at its limit, with a mark."""
    said = fill("{{ big }}", VALUES)
    assert said == "x" * MOST_OUTPUT + "…"
    assert len(fill("{% for a in range(9000) %}" + "y" * 100 + "{% endfor %}", {})) == MOST_OUTPUT + 1


@pytest.mark.parametrize(
    "template", ["{{ text }}", "{% for a in range(3) %}{% if a > 5 %}x{% endif %}{% endfor %}"]
)
def test_filling_has_a_time(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than it may ends, in a loop that says nothing as well."""
    assert fill(template, VALUES) is not None
    monkeypatch.setattr(templates, "MOST_SECONDS", -1)
    with pytest.raises(BadTemplate, match="takes longer"):
        fill(template, VALUES)
