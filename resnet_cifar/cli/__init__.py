"""The command line: arguments in, one line and an exit code out."""
