"""The character tokenizer loses nothing, refuses the unknown, and survives saving."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cascade.data.characters import DEFAULT_ALPHABET, SPECIAL_TOKENS, character_tokenizer, require_known_characters
from cascade.data.chat import bundled_template, completion_text, render_prompt, render_text
from cascade.errors import DataError

TOKENIZER = character_tokenizer(DEFAULT_ALPHABET, bundled_template("characters"))


def test_ids_are_special_tokens_then_alphabet_in_order():
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(6))
    assert TOKENIZER.encode(DEFAULT_ALPHABET) == list(range(6, 6 + 96))
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (0, 1)
    assert len(TOKENIZER) == 102


@given(st.text(alphabet=DEFAULT_ALPHABET))
def test_decoding_gives_back_what_was_encoded(text):
    token_ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(token_ids) == text
    if not any(token in text for token in SPECIAL_TOKENS):
        assert len(token_ids) == len(text)
        assert completion_text(TOKENIZER, [*token_ids, 1]) == text


def test_saved_and_loaded_tokenizer_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = " a, don't <b> .\n\n <|end|>x "
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.chat_template == TOKENIZER.chat_template
    assert loaded.special_tokens_map == TOKENIZER.special_tokens_map
    assert sorted(loaded.all_special_tokens) == sorted(SPECIAL_TOKENS)


def test_unknown_characters_are_refused_and_named():
    with pytest.raises(DataError, match="ßé"):
        require_known_characters(TOKENIZER, "caféß")
    with pytest.raises(DataError, match="é"):
        render_prompt(TOKENIZER, [{"role": "user", "content": "café"}])
    with pytest.raises(DataError, match="é"):
        render_text(TOKENIZER, "café")
    with pytest.raises(Exception, match="WordLevel error"):
        TOKENIZER.encode("café")


def test_special_tokens_need_no_place_in_the_alphabet():
    digits = character_tokenizer("0123456789+", bundled_template("characters"))
    assert render_prompt(digits, [{"role": "user", "content": "1+2"}]) == [3, 7, 16, 8, 1, 4]


@pytest.mark.parametrize("alphabet", ["", "abca"])
def test_bad_alphabets_are_refused(alphabet):
    with pytest.raises(DataError, match="alphabet"):
        character_tokenizer(alphabet, "")


def test_text_is_trained_but_for_its_first_token():
    assert render_text(TOKENIZER, "\n ") == ([6, 7, 1], [0, 1, 1])
