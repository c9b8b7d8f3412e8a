"""The documentation, and the script that takes its screenshots.
May import every room and benchmarks' virtual_screen and browser."""
