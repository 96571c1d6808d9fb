"""The API: the app, its routes, its shortcuts, its metrics and its description of itself."""

from heliograph.http.api.app import create_app
from heliograph.http.api.registry import ENDPOINTS
from heliograph.http.api.services import Services, StorageStats
from heliograph.http.api.shortcuts import Shortcuts

__all__ = ["ENDPOINTS", "Services", "Shortcuts", "StorageStats", "create_app"]
