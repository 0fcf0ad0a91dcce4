"""Tests of what is said of other tools' words."""
