"""Tests of the Debian package on a machine of its own: systemd, cgroup v2, reboot."""
