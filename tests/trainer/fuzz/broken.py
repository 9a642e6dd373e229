"""Broken inputs, always the same ones: whatever a seed chooses is chosen by the name of the input.

Each is broken for certain: a mutation that could by chance leave a good file is not among them.
"""

import gzip
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ALPACA = [
    {"instruction": "What does an architect do?", "input": "", "output": "An architect draws plans."},
    {"instruction": "Who asks for permits?", "input": "In town.", "output": "The architect asks for permits."},
    {"instruction": "Is a loft allowed?", "input": "", "output": "Ask the municipality first."},
]
MESSAGES = [
    {
        "messages": [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["output"]},
        ]
    }
    for row in ALPACA
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": row["output"]}]}
    for row in ALPACA
]
_WRONG: list[Any] = [7, -0.5, True, [1], {"a": 1}, ["x", 2], [[["x"]]]]
"""Where text is wanted."""

Broken = tuple[str, str, bytes]
"""What is broken; name of the file; its content."""


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def wrong_values() -> Iterator[Broken]:
    """A value of a wrong type, or no value, at each place of each format that wants text, turns or roles."""
    for wrong in _WRONG:
        for place in ("instruction", "output", "input", "system"):
            yield _row(f"alpaca {place} is {wrong!r}", ALPACA, {**ALPACA[1], place: wrong})
        for place in ("role", "content"):
            for turn in (1, 2):
                yield _row(f"messages[{turn}].{place} is {wrong!r}", MESSAGES, _turn(MESSAGES[1], turn, place, wrong))
        for place in ("from", "value"):
            for turn in (0, 1):
                changed = _turn(SHAREGPT[1], turn, place, wrong)
                yield _row(f"conversations[{turn}].{place} is {wrong!r}", SHAREGPT, changed)
        yield _row(f"messages is {wrong!r}", MESSAGES, {"messages": wrong})
        yield _row(f"conversations is {wrong!r}", SHAREGPT, {"conversations": wrong})
        yield _row(f"history is {wrong!r}", ALPACA, {**ALPACA[1], "history": wrong})
        yield _row(f"the row is {wrong!r}", ALPACA, wrong if not isinstance(wrong, dict) else None)
    for key in ("instruction", "output"):
        yield _row(f"no {key}", ALPACA, {name: text for name, text in ALPACA[1].items() if name != key})
    for text in ("", " ", "\n\t", "\u00a0"):
        yield _row(f"the answer is {text!r}", ALPACA, {**ALPACA[1], "output": text})
        yield _row(f"the answer is {text!r} (messages)", MESSAGES, _turn(MESSAGES[1], 2, "content", text))
    for role in ("", "Assistant?", "ASSISTANT_2", "observer", "\u0430ssistant"):
        yield _row(f"the role is {role!r}", MESSAGES, _turn(MESSAGES[1], 2, "role", role))
    yield _row("no turns", MESSAGES, {"messages": []})
    yield _row("no answer", MESSAGES, {"messages": MESSAGES[1]["messages"][:2]})


def _row(what: str, good: list[Any], row: Any) -> Broken:
    return what, "rows.jsonl", jsonl([good[0], row, good[2]])


def _turn(row: dict[str, Any], index: int, key: str, value: Any) -> dict[str, Any]:
    [(name, turns)] = row.items()
    return {name: [{**turn, key: value} if at == index else turn for at, turn in enumerate(turns)]}


def broken_text() -> Iterator[Broken]:
    """JSON lines, JSON and CSV that are cut, damaged, in another encoding, or that say what no text can say."""
    for number in range(20):
        random = Random(f"jsonl-{number}")
        line = json.dumps(ALPACA[1]).encode()
        at = random.randrange(1, len(line) - 1)
        good = jsonl(ALPACA[:1])
        yield f"a line cut at {at}", "rows.jsonl", good + line[:at]
        yield f"a byte that is not UTF-8 at {at}", "rows.jsonl", good + line[:at] + b"\xff" + line[at:] + b"\n"
        yield f"a control character at {at}", "rows.jsonl", good + line[:at] + b"\x01" + line[at:] + b"\n"
        array = json.dumps(ALPACA).encode()
        end = random.randrange(1, len(array) - 1)
        yield f"an array cut at {end}", "rows.json", array[:end]
        table = b"instruction,output\nWho?,I\n"
        yield f"a row of {number + 3} cells", "rows.csv", table + b"x" + b",y" * (number + 2) + b"\n"
        yield f"a quote opened at {number}", "rows.csv", table + b"a,b\n" * number + b'"Who,I\n'
        where = random.randrange(20, len(table))
        yield f"a CSV with a byte that is not UTF-8 at {where}", "rows.csv", table[:where] + b"\xfe" + table[where:]
    for half in ("\\ud83d", "\\udc00", "x\\udfffy", "\\ud800\\ud800"):
        for key in ("instruction", "output"):
            text = json.dumps({**ALPACA[1], key: "HALF"}).replace("HALF", half)
            yield f"{key} has half a character {half}", "rows.jsonl", jsonl(ALPACA[:1]) + text.encode() + b"\n"
    for depth in (2_000, 10_000, 100_000):
        nested = b'{"instruction": ' + b"[" * depth + b"]" * depth + b', "output": "x"}\n'
        yield f"nested {depth} deep", "rows.jsonl", nested
        yield f"nested {depth} deep in a .json file", "rows.json", b"[" + nested + b"]"
        yield f"opened {depth} deep", "rows.jsonl", b'{"instruction": ' + b"[" * depth + b"\n"
    for digits in (5_000, 50_000):
        yield f"{digits} digits", "rows.jsonl", b'{"instruction": ' + b"9" * digits + b', "output": "x"}\n'
    for encoding in ("utf-16", "utf-32", "utf-16-le"):
        for name, content in (("rows.jsonl", jsonl(ALPACA)), ("rows.csv", b"instruction,output\nWho?,I\n")):
            yield f"{name} in {encoding}", name, content.decode().encode(encoding)
    twice = b'{"instruction": "Who?", "output": "I", "output": "You"}\n'
    yield "a key twice", "rows.jsonl", twice
    yield "a key twice in a .json file", "rows.json", b"[" + twice + b"]"
    yield "a column twice", "rows.csv", b"instruction,output,output\nWho?,I,You\n"
    yield "no row", "rows.jsonl", b"\n\n"
    yield "nothing", "rows.jsonl", b""
    yield "a header alone", "rows.csv", b"instruction,output\n"
    yield "an empty array", "rows.json", b"[]"
    yield "a number", "rows.json", b"7"


def broken_binaries() -> Iterator[Broken]:
    """Parquet and compressed files, cut or with a wrong content."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ALPACA), sink)
    parquet = sink.getvalue().to_pybytes()
    packed = gzip.compress(jsonl(ALPACA * 30), mtime=0)
    for number in range(25):
        random = Random(f"binary-{number}")
        cut = random.randrange(0, len(parquet) - 1)
        yield f"Parquet cut at {cut}", "rows.parquet", parquet[:cut]
        end = random.randrange(2, len(packed) - 1)
        yield f"gzip cut at {end}", "rows.jsonl.gz", packed[:end]
        footer = len(parquet) - 8 - random.randrange(1, 60)
        yield f"a footer with {number} at {footer}", "rows.parquet", _with_noise(parquet, footer, random)
    for name in ("rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst"):
        for content in (b"", b"PAR1", b"not what its name says\n" * 40, bytes(range(256)) * 8):
            yield f"{name} with {content[:8]!r}", name, content
    for kind, values in {"ints": [1, 2], "dates": pa.array([1, 2], pa.date32()), "lists": [[1], [2]]}.items():
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"instruction": values, "output": ["x", "y"]}), sink)
        yield f"a column of {kind}", "rows.parquet", sink.getvalue().to_pybytes()


def _with_noise(data: bytes, start: int, random: Random) -> bytes:
    """The thrift footer and its length, overwritten from `start` on."""
    return data[:start] + random.randbytes(len(data) - start - 4) + data[-4:]


Mutation = tuple[str, Callable[[Path], None]]
"""What is broken in a model's folder, and how."""


def broken_models() -> Iterator[Mutation]:
    """A model folder whose JSON is cut, wrong or about another model."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for number in range(6):
            yield f"{name} cut, the {number}. time", _cut(name, Random(f"{name}-{number}"))
        yield f"{name} is empty", _content(name, b"")
        yield f"{name} is a list", _content(name, b"[]")
        yield f"{name} is a string", _content(name, b'"x"')
        yield f"{name} is not UTF-8", _content(name, b'{"a": "\xff"}')
    for name in ("config.json", "tokenizer.json"):
        yield f"no {name}", lambda folder, name=name: (folder / name).unlink()
    changes: dict[str, list[Any]] = {
        "model_type": ["nope", "", 7, None, "bert", "t5", "clip", "whisper"],
        "hidden_size": [48, 0, -32, "wide", None, [32], 1e30],
        "vocab_size": [17, 0, -1, "many", 100_000],
        "num_attention_heads": [0, 5, -4, "four"],
        "num_key_value_heads": [3, -2, "two"],
        "num_hidden_layers": [3, 64, -1, "two", [2]],
        "intermediate_size": [65, 0, "x"],
        "hidden_act": ["nope", 7],
        "rope_parameters": [{"rope_type": "nope", "rope_theta": 10000.0}, "x", 7],
        "quantization_config": [{"quant_method": "nope"}, {"quant_method": "gptq", "bits": 4}, "4bit"],
    }
    for key, values in changes.items():
        for value in values:
            yield f"config.json: {key} is {value!r}", _changed("config.json", key, value)


def broken_weights() -> Iterator[Mutation]:
    """model.safetensors cut, or with a header that lies."""
    for number in range(20):
        yield f"weights cut, the {number}. time", _cut("model.safetensors", Random(f"weights-{number}"))
    for length in (0, 1, 7, 2**31, 2**63 - 1, 2**64 - 1):
        yield f"a header of {length} bytes", lambda folder, length=length: _header_length(folder, length)
    for number in range(8):
        random = Random(f"header-{number}")
        yield f"a tensor left out, {number}", _header(lambda header, name: header.pop(name), random)
        yield f"a tensor renamed, {number}", _header(lambda header, name: header.update({f"x.{name}": header.pop(name)}), random)  # fmt: skip  # noqa: E501
        yield f"a dtype that is none, {number}", _header(lambda header, name: header[name].update(dtype="F99"), random)
        yield f"offsets beyond the end, {number}", _header(lambda header, name: header[name].update(data_offsets=[0, 2**40]), random)  # fmt: skip  # noqa: E501
        yield f"offsets backwards, {number}", _header(lambda header, name: header[name]["data_offsets"].reverse(), random)  # fmt: skip  # noqa: E501
        yield f"a shape of another model, {number}", _header(lambda header, name: header[name]["shape"].append(2), random)  # fmt: skip  # noqa: E501
        yield f"a shape that is text, {number}", _header(lambda header, name: header[name].update(shape="wide"), random)
        yield f"an entry that is a list, {number}", _header(lambda header, name: header.update({name: []}), random)
    yield "a pickle under the name of safetensors", _content("model.safetensors", b"\x80\x04K\x01.")
    yield "HTML under the name of safetensors", _content("model.safetensors", b"<html>404</html>")
    yield "a pointer of git-lfs", _content("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")  # fmt: skip  # noqa: E501
    yield "no weights", lambda folder: (folder / "model.safetensors").unlink()


def _cut(name: str, random: Random) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: random.randrange(1, len(data.rstrip()) - 1)])

    return apply


def _content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def _changed(name: str, key: str, value: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**document, key: value}))

    return apply


def _header_length(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])


def _header(change: Callable[[dict[str, Any], str], Any], random: Random) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header, random.choice(sorted(set(header) - {"__metadata__"})))
        written = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(written)) + written + data[8 + length :])

    return apply


def broken_manifests(good: bytes) -> Iterator[tuple[str, bytes]]:
    """A manifest that is cut, that says what no manifest says, or that lies about its files."""
    for number in range(12):
        cut = Random(f"manifest-{number}").randrange(0, len(good.rstrip()) - 1)
        yield f"cut at {cut}", good[:cut]
    yield "a list", b"[]"
    yield "not UTF-8", b"\xff" + good
    yield "nested", b'{"files": ' + b"[" * 50_000
    for key in ("kind", "files"):
        yield f"without {key}", _json(good, lambda document, key=key: document.pop(key))
    for kind in ("", "nope", 7, None):
        yield f"kind {kind!r}", _json(good, lambda document, kind=kind: document.update(kind=kind))
    for files in ([], {}, "x", [7], [{}], None):
        yield f"files {files!r}", _json(good, lambda document, files=files: document.update(files=files))
    paths = ("../x", "/etc/passwd", "a/../../b", "", ".", "x\u0000y", "missing", "x" * 5_000, "manifest.json", "a\nb")
    for path in paths:
        yield f"path {path[:20]!r}", _entry(good, path=path)
    for size in (-1, 0, 2**70, "many", 1.5, None):
        yield f"size {size!r}", _entry(good, size=size)
    for sha256 in ("", "0" * 64, "g" * 64, 7, None):
        yield f"sha256 {sha256!r}", _entry(good, sha256=sha256)
    for step in (-1, "seven", 2**80, [1]):
        yield f"step {step!r}", _json(good, lambda document, step=step: document.update(step=step))


def damaged_files(data: bytes, name: str) -> Iterator[tuple[str, bytes | None]]:
    """One file of a checkpoint or a result; None: it is gone."""
    for number in range(4):
        random = Random(f"{name}-{number}")
        at = random.randrange(len(data))
        yield f"{name} with a bit flipped at {at}", data[:at] + bytes([data[at] ^ (1 << number)]) + data[at + 1 :]
        yield f"{name} cut at {at}", data[:at]
    yield f"{name} gone", None
    yield f"{name} emptied", b""
    yield f"{name} with a byte more", data + b"\0"
    yield f"{name} with other bytes", bytes(len(data))


def _json(good: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = json.loads(good)
    change(document)
    return json.dumps(document).encode()


def _entry(good: bytes, **changes: Any) -> bytes:
    return _json(good, lambda document: document["files"][0].update(changes))
