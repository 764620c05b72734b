"""Builds the native lane where there is a compiler; where there is none, the lane in Python does its work.

Everything else about the package is in pyproject.toml. FABRIC_LADDER=1 makes the build that `make bench-lanes` takes
apart: it can go without a cipher, which no other build can. FABRIC_WERROR=1, as `make` has it, lets no warning pass; a
compiler of tomorrow that warns of more must not cost anybody the lane.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("fabric/dataplane/native")
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Wstrict-prototypes", "-Wvla"]
HARDENED = ["-O2", "-fstack-protector-strong", "-fstack-clash-protection", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
LINKED = ["-lm", "-Wl,-z,relro,-z,now,-z,noexecstack", "-pthread"]

strict = ["-Werror"] if os.environ.get("FABRIC_WERROR") else []
ladder = [("FABRIC_LADDER", "1")] if os.environ.get("FABRIC_LADDER") else []

setup(
    ext_modules=[
        Extension(
            "fabric.dataplane._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.c")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            define_macros=[("_GNU_SOURCE", "1"), *ladder],
            extra_compile_args=[*WARNINGS, *strict, *HARDENED, "-fvisibility=hidden", "-pthread"],
            extra_link_args=LINKED,
            py_limited_api=True,
            optional=True,
        )
    ],
)
