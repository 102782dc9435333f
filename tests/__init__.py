"""The tests of the tool."""
