"""All measurements on one GPU, in one command: ``python -m benchmarks.gpu --minutes 8 --output DIR``.

May import any room; runs without pydantic, bitsandbytes and the internet.
"""
