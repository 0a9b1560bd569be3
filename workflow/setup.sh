#!/bin/sh
# Makes .venv from requirements.lock and finds LaTeX. Usage: setup.sh PYTHON
# Debian's packages are installed where that is allowed; otherwise the one line to type is printed.
set -eu

python=$1
latex="latexmk texlive-latex-recommended texlive-fonts-recommended lmodern"

# need WHAT PACKAGES...: install Debian's packages, or stop and say how
need() {
    what=$1
    shift
    if [ "$(id -u)" = 0 ]; then
        root=""
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        root="sudo"
    else
        echo "$what is missing; type: sudo apt-get install --no-install-recommends $*" >&2
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        echo "$what is missing, and this is not Debian; install what its packages hold: $*" >&2
        exit 1
    fi
    echo "installing $* for $what"
    $root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    echo "$python is $("$python" --version 2>&1); type: make PYTHON=python3.N, with N from 11 to 13" >&2
    exit 1
fi
command -v latexmk >/dev/null || need "LaTeX" $latex
"$python" -c 'import ensurepip, venv' 2>/dev/null || need "Python's venv" python3-venv

echo "installing requirements.lock into .venv (a download of 3 GB, 6 GB on the disk, some minutes)"
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
