"""Looking for faults in what process_image.py wrote (``process_image.py --check``); nothing is changed.
May import common, settings, dataset, qwen.tokenizer, and evaluation's questions and question_types."""
