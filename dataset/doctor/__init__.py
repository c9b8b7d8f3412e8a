"""Looking for faults in what process_image.py wrote (``process_image.py --check``); nothing is changed.
May import what dataset may; torch only where the tokenizer is needed."""
