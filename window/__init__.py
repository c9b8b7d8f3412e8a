"""The window: what is seen (view), what happens (controller), pictures, preferences and texts in two languages.
May import common, settings, dataset and answering."""
