"""The demo: drawn pictures with questions, the training of its two tiny backbones, and the last step of `make demo`.
May import every room; no room imports it."""
