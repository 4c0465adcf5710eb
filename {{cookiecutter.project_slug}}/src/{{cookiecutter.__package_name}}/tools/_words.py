"""What samples are called in texts for people, as the data module says: images, or rows."""

from ..cli import CLI

NOUN, ONE = CLI.data_module.noun, CLI.data_module.one
A_ONE = f"{'an' if ONE[0] in 'aeiou' else 'a'} {ONE}"
