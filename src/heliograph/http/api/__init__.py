"""The API: the app, its routes, its shortcuts, its metrics and its description of itself."""
