"""Samples: readers of image folders, arrays and Python entries, and their division into splits."""
