"""A network in PyTorch Lightning; ``__main__.py`` is where a command starts."""
