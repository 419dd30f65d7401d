"""A tokenizer with one token a character, for models small enough to train in seconds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cascade.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = "<pad>"
END = "<|end|>"
SPECIAL_TOKENS = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
"""Ids 0 to 5, in this order."""

DEFAULT_ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))
"""Newline and printable ASCII."""


def character_tokenizer(alphabet: str, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer in which `alphabet[i]` has id `6 + i` and `SPECIAL_TOKENS[i]` has id `i`.

    `template` is the text of a chat template. `save_pretrained` and `AutoTokenizer.from_pretrained` keep everything.
    There is no unknown token, so that encoding a character outside the alphabet is an error and never loses it.

    Raises `DataError` for an empty alphabet or a repeated character.
    """
    repeated = sorted({character for character in alphabet if alphabet.count(character) > 1})
    if not alphabet or repeated:
        fault = f"repeats {''.join(repeated)!r}" if alphabet else "is empty"
        raise DataError(f"The alphabet of a character tokenizer {fault}.", "Give every character exactly once.")
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    # WordLevel refuses a word outside the vocabulary when its unk_token is outside too; BPE would drop it silently.
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<no unknown token>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=list(SPECIAL_TOKENS[2:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def require_known_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Raise `DataError` naming the characters of `text` that a character tokenizer has no token for.

    Does nothing for tokenizers of other kinds: they cover every byte or have an unknown token.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return
    if not isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
        return
    special = "|".join(re.escape(token) for token in tokenizer.all_special_tokens)
    characters = set(re.sub(special, "", text) if special else text)
    unknown = "".join(sorted(characters - tokenizer.get_vocab().keys()))
    if unknown:
        raise DataError(
            f"The character tokenizer has no token for {unknown!r}.",
            "Add these characters to its alphabet or remove them from the rows.",
        )
