"""Tests as root against the real kernel, crun and conmon of this machine."""
