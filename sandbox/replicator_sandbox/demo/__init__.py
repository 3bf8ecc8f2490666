"""The demo: a writer, the replicator and a listener on real connections, with things that break.

Only the command line imports it. It uses the replicator as any user does: as a process, through
its settings, its HTTP address and its messages.
"""
