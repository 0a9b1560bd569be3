"""Files in the place of `params.yaml` that hold no parameters, and what is said of each."""

from vanishing import config

REFUSED = "anchors, aliases and tags are not allowed, found"
KEYS = ", ".join(config.Parameters.model_fields)
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

BAD_FILES = {
    "list": (b"- 1\n", f": must be a mapping with the keys {KEYS}"),
    "empty": (b"", f": must be a mapping with the keys {KEYS}"),
    "YAML bomb": (BOMB.encode(), f", line 1: {REFUSED} 'a'"),
    "alias": (b"a: [1]\nb: *a\n", f", line 2: {REFUSED} 'a'"),
    "not UTF-8": ("seeds: [é]".encode("latin-1"), ": not UTF-8 text"),
    "null byte": (b"seeds: \0", ": unacceptable character #x0000: special characters are not allowed"),
    "impossible escape": (b'"\\UFFFFFFFF": 1', ": cannot be read as YAML"),
    "two documents": (b"a: 1\n---\nb: 1\n", ", line 2: but found another document"),
    "unclosed bracket": (b"seeds: [1,", ", line 1: expected the node content, but found '<stream end>'"),
    "deep nesting": (b"seeds: " + b"[" * 100_000, ": nested too deeply"),
    "larger than 1 MiB": (b"#" * (1 << 20) + b"\n", ": larger than 1,048,576 bytes; that is no parameter file"),
}
"""The bytes of a parameter file that is none, and what the message says after its name."""
