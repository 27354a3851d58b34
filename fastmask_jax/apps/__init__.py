"""What people start: the commands, videos, the page."""
