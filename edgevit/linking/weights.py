"""Weights as read-only data of a library."""

from __future__ import annotations

import hashlib
from pathlib import Path

WEIGHTS_FUNCTION = "edgevit_weights"
"""C function without arguments, private to each library, that returns the address of its weights."""

_WEIGHTS_C = """\
#if defined(__APPLE__)
__asm__(".section __TEXT,__const\\n.p2align 6\\n_@FUNCTION@_data:\\n.incbin \\"@FILE@\\"\\n.text\\n");
#else
__asm__(".pushsection .rodata\\n.balign 64\\n.hidden @FUNCTION@_data\\n.globl @FUNCTION@_data\\n"
        "@FUNCTION@_data:\\n.incbin \\"@FILE@\\"\\n.popsection\\n");
#endif
extern const char @FUNCTION@_data[] __attribute__((visibility("hidden")));
__attribute__((visibility("hidden"))) const void *@FUNCTION@(void) { return @FUNCTION@_data; }
"""


def weights_source(folder: Path, weights: bytes) -> Path:
    """C file that takes the weights into the library, and offers their address."""
    data, source = folder / "weights.bin", folder / "weights.c"
    data.write_bytes(weights)
    # Compilers that cache by source text do not see the data; its hash makes the text differ when it does.
    text = _WEIGHTS_C.replace("@FILE@", str(data).replace("\\", "/")).replace("@FUNCTION@", WEIGHTS_FUNCTION)
    source.write_text(f"/* {hashlib.sha256(weights).hexdigest()} */\n{text}", encoding="utf-8")
    return source
