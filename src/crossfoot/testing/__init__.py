"""What crossfoot tests itself with, and you can use too: conformance suites for your own adapters."""
