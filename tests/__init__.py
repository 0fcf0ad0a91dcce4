"""Tests: fast ones of single rooms in `unit`, real crun and conmon in `integration`, a Debian machine in `system`."""
