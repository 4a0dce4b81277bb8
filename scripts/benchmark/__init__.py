"""The parts of scripts/bench.py: labs, what is measured in them, and the report."""
