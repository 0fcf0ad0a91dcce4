"""Files of quadlet."""
