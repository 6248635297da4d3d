"""How fast audit records are written, sealed and verified: `python -m benchmarks.audit`."""
