"""The outbox on SQLite: all that is particular to it.

Connections and their settings, statements, look-ups in the index, the lock file, free pages, and
the room on the volume.
"""
