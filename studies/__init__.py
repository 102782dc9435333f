"""They test the tester, and measure: never installed."""
