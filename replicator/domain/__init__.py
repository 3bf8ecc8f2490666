"""Decisions only: no I/O, no clock, no randomness, no threads, no logging.

Everything here is a pure function of its arguments, or a small state machine that is told the
time. That is what makes the promises (docs/delivery-guarantees.md) testable without servers.
"""
