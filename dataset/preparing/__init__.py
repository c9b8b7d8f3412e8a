"""Raw annotations and image files to image_map.json, annotations.json and skipped.json: the work of process_image.py.
May import common, settings and the dataset modules that need no torch (image, records, converters)."""
