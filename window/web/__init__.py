"""The assistant as a page in a browser: several people, one model. Only page.py and server.py import gradio, which is
optional. It may import common, settings, dataset and answering, and of the window its texts."""
