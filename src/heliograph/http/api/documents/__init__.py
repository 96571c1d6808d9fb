"""The API's own description: ``/openapi.json`` and ``/asyncapi.json``.

Plain functions make plain dicts, once for each service. Everything that the code knows is taken from its
source: limits and media types from the constants that the routes check, fields from the classes that are
written and the rules that are checked, statuses and codes from the table of errors, summaries from the
docstrings of the views. Examples are made by the functions that make the real answers. The rest is written
here, and the tests compare it with a running service.
"""
