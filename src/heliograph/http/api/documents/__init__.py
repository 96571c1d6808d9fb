"""The API's own description: ``/openapi.json`` and ``/asyncapi.json``.

Plain functions make plain dicts, once for each service. What the code already knows is taken from where it
is decided: limits and media types from the constants that the routes check by, fields from the classes that
are written and the rules that are checked, statuses and codes from the table of errors, summaries from the
docstrings of the routes. Examples are made by the functions that make the real answers. What is typed here
is only what nothing else says, and the tests hold it against a running service.

A generator that reads annotations was refused: our routes read their parameters by functions and write
dicts, so all that it could have known would have had to be written a second time, as classes.
"""
