"""The machinery of a run; an update of the template replaces it whole. It imports nothing of the project around it."""

PACKAGE = __name__.rpartition(".")[0]  # the project's own
VERSION = "0.2.0.dev0"  # of the template that it came with
