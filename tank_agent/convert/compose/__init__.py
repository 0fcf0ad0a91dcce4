"""Files of compose."""
