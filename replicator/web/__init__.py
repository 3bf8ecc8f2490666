"""Probes, metrics and status over HTTP: read-only, with no facts of its own."""
