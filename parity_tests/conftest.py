"""Makes the parity plugin known to the project's own tests."""

pytest_plugins = ["parity_tests.plugin"]
