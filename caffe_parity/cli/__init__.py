"""The command line: one parser, typed requests."""
