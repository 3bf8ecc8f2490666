"""The command line: one file per noun; no SQL and no AMQP here.

Data goes to standard output, logs and notes to standard error. What a user can cause is one line
that says what happened and one that says what to do, never a traceback.
"""
