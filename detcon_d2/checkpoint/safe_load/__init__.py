"""Reading checkpoint files that could come from anyone: no file can run code."""
