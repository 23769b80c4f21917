"""The package's version, for whoever writes it into a file.

Room: the floor. Imports nothing.
"""

__version__ = "0.1.0"
