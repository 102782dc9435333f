"""From a plan to a verdict: the one place that compares."""
