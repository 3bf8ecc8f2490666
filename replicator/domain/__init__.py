"""Decisions only: no I/O, no clock, no randomness, no threads, no logging.

Everything here is a pure function of its arguments, or a small state machine to which callers
pass the time. That makes the promises (docs/delivery-guarantees.md) testable without servers.
"""
