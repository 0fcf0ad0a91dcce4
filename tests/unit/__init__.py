"""Tests of one room each, without root and within seconds."""
