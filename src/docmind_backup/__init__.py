"""Local backups of a DocMind environment that can be proved and restored."""

__version__ = "0.1.0"
