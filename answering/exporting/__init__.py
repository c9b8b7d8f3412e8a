"""Writing a checkpoint as a folder that other programs open; each format is one module with write and reopen.
May import every room except training and window."""
