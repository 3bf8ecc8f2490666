"""The command line: one file per noun; no SQL and no AMQP here.

Data goes to standard output, logs and notes to standard error. An error that a user can cause is
a line that says what happened and a line that says what to do, never a traceback.
"""
