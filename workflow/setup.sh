#!/bin/sh
# Makes .venv from requirements.lock and finds LaTeX. Usage: setup.sh PYTHON
# Debian's packages are installed where that is allowed; otherwise the one line to type is printed.
# setup.sh --made asks whether .venv is the environment of this folder; it says nothing.
set -eu

here=$(pwd -P)
latex="latexmk texlive-latex-recommended texlive-fonts-recommended lmodern"
programs="latexmk pdflatex bibtex kpsewhich"
files="pdflatex.fmt plainnat.bst lmr10.pfb lmodern.sty fontenc.sty inputenc.sty microtype.sty geometry.sty amsmath.sty
  amssymb.sty graphicx.sty array.sty booktabs.sty caption.sty fancyhdr.sty natbib.sty hyperref.sty"

fail() {
    echo "$1" >&2
    exit 1
}

# need WHAT PACKAGES...: install Debian's packages, or stop and say how
need() {
    what=$1
    shift
    command -v apt-get >/dev/null || fail "$what is missing, and this is not Debian; install what its packages hold: $*"
    by_hand="$what is missing; type: sudo apt-get install --no-install-recommends $*"
    if [ "$(id -u)" = 0 ]; then
        root=""
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        root="sudo"
    else
        fail "$by_hand"
    fi
    echo "installing $* for $what"
    $root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || fail "$by_hand"
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        fail "$by_hand"
}

# name what is missing of LaTeX; settings of the user's own are left out, as they are when the report is typeset
lacking() {
    for name in $programs; do
        command -v "$name" >/dev/null || echo "$name"
    done
    command -v kpsewhich >/dev/null || return 0
    for name in $files; do
        env -i PATH="$PATH" HOME=/nonexistent kpsewhich -engine=pdftex -progname=pdflatex "$name" >/dev/null ||
            echo "$name"
    done
}

# whether .venv works and was made here: its programs name the place of their Python, and a checkout may have moved
made() {
    [ -x .venv/bin/python ] &&
        head -n 2 .venv/bin/pip 2>/dev/null | grep -qF -e "!$here/.venv/" -e " $here/.venv/" -e "\"$here/.venv/"
}

if [ "$1" = --made ]; then
    made
    exit
fi
python=$1

# Python's and pip's own variables lead to other packages and places; where packages come from is the user's choice
for name in $(env | LC_ALL=C sed -n -e 's/^\(PYTHON[A-Z_]*\)=.*/\1/p' -e 's/^\(PIP_[A-Z_]*\)=.*/\1/p'); do
    case $name in
    PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_NO_INDEX | PIP_FIND_LINKS | PIP_TRUSTED_HOST | PIP_PROXY | PIP_CERT | \
        PIP_CLIENT_CERT | PIP_KEYRING_PROVIDER | PIP_TIMEOUT | PIP_DEFAULT_TIMEOUT | PIP_RETRIES | PIP_CACHE_DIR | \
        PIP_NO_CACHE_DIR | PIP_CONFIG_FILE) ;;
    *) unset "$name" ;;
    esac
done
export PIP_USER=0 # before what pip.conf says

for character in : { }; do
    case $here in
    *"$character"*) fail "$here: Python's environments or DVC do not work in a path with '$character'; move the checkout" ;;
    esac
done
found=$("$python" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null) || found=""
case $found in
*" 3.11" | *" 3.12" | *" 3.13") ;;
*) fail "$python is ${found:-not found, or not Python}; type: make PYTHON=python3.N, with N from 11 to 13" ;;
esac
[ -z "$(lacking)" ] || need "LaTeX ($(lacking | paste -s -d ' '))" $latex
[ -z "$(lacking)" ] || fail "LaTeX: $(lacking | paste -s -d ' '): still missing after its packages are installed"
"$python" -c 'import ensurepip, venv' 2>/dev/null || need "Python's venv" "python${found#Python }-venv"

if ! made || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    [ ! -L .venv ] || fail "$here/.venv: is a link to an environment of another place; remove the link"
    # seen by another path, as by another mount point, it may be in use
    [ ! -x .venv/bin/python ] || .venv/bin/python workflow/idle.py "make setup" || exit 1
    "$python" -m venv --clear .venv
    .venv/bin/pip --version >/dev/null 2>&1 || fail "$here/.venv/bin: programs do not run there; move the checkout \
to a path of letters, digits, '_', '.' and '-', on a disk that is not mounted noexec"
fi
echo "installing requirements.lock into .venv (a download of 3 GB, 6 GB on the disk, some minutes)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
[ -x .venv/bin/vanishing ] || fail "pip has installed elsewhere; check \`.venv/bin/pip config list\`"
