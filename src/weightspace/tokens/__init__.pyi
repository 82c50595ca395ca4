from weightspace.tokens.layout import TokenLayout as TokenLayout
from weightspace.tokens.layout import plan_layout as plan_layout
from weightspace.tokens.tokenizing import Tokens as Tokens
from weightspace.tokens.tokenizing import detokenize as detokenize
from weightspace.tokens.tokenizing import tokenize as tokenize

__all__: list[str]
