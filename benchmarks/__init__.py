"""Benchmarks, run as modules: python -m benchmarks.answer. Their tables are in the README and LOG.md.
May import every room; nothing imports them except tests and docs."""
