"""kvmpc compares the mechanisms that feed a KVM guest its missing pages.

The words used throughout are in README.md; where things are, in its last section.
"""

__version__ = "0.1.0"
