"""The report to look at: one HTML file with the scores, the pictures and the answers, and nothing outside it.
Python gathers the content (content.py, thumbnails.py, texts.py) and fills the page (page.py); the rest is the page
itself: page.html, page.css and four scripts without a framework."""
