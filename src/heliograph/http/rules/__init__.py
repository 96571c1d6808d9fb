"""The rules of a request: parameters, keys, problems."""
