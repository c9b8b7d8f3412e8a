"""A server of our own: the engine that batches questions, OpenAI's protocol, pictures by address, and the HTTP layer.
May import every room that answering may."""
