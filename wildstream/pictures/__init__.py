"""What people look at: charts as PNG, strips of frames, and pages that hold them; nothing here reads a file."""
