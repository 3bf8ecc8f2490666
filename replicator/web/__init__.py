"""Probes, metrics and status over HTTP: read-only, and told everything by the service."""
