"""The application: command line, engine, breeding, lineage store, targets."""

__version__ = "0.1.0"
