#!/usr/bin/env bash
# Build .venv with the locked dependencies and this project, or (with the argument "lock") resolve the lock anew.
# Started by make in the root of the checkout. Works where Python lacks ensurepip, and in folders with spaces.
set -euo pipefail

# Slow lines get five minutes a file; certificates that an institution added to the system's are trusted.
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"; fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
venv=.venv

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

same_version() { [ "$("$1" --version)" = "$("$venv/bin/python" --version)" ]; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs. Name another one."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && fits "$candidate"; then echo "$candidate"; return; fi
    done
    fail "No Python 3.11, 3.12 or 3.13 on PATH (python3 is $(python3 --version 2>&1 || true))." \
        "Install one, or name it: make setup PYTHON=/path/to/python3.12"
}

# Debian's bare python3 has venv but not ensurepip: then uv, or the system's pip, fills an empty environment.
make_venv() {
    local python=$1
    rm -rf "$venv"
    if "$python" -m venv "$venv" >/dev/null 2>&1; then return; fi
    rm -rf "$venv"
    if command -v uv >/dev/null; then uv venv --quiet --python "$python" "$venv"; return; fi
    "$python" -m venv --without-pip "$venv" || fail "$python cannot make a virtual environment." \
        "Install its venv module (Debian, Ubuntu: apt install python3-venv), or uv (https://docs.astral.sh/uv)."
}

# The uv inside .venv, installed there by whichever of pip, uv and the system's pip this machine has.
get_uv() {
    local python=$1
    if [ -x "$venv/bin/uv" ]; then return; fi
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then "$venv/bin/python" -m pip install --quiet uv
    elif command -v uv >/dev/null; then uv pip install --quiet --python "$venv/bin/python" uv
    elif "$python" -m pip --version >/dev/null 2>&1; then "$python" -m pip --python "$venv/bin/python" install --quiet uv
    else
        rm -rf "$venv"
        fail "$python has neither ensurepip nor pip, and there is no uv." \
            "Install one of them (Debian, Ubuntu: apt install python3-venv; without root: https://docs.astral.sh/uv)."
    fi
}

main() {
    local python
    python=$(find_python)
    if ! fits "$venv/bin/python" || { [ -n "${PYTHON:-}" ] && ! same_version "$python"; }; then
        say "new environment $venv, $("$python" --version)"
        make_venv "$python"
    fi
    get_uv "$python"
    local uv="$venv/bin/uv"

    if [ "${1:-}" = lock ]; then
        # uv.lock names the registry that it was resolved from; requirements.lock has versions and hashes alone.
        say "resolving pyproject.toml for Python 3.11 to 3.13"
        "$uv" lock --upgrade
        "$uv" export --quiet --all-groups --no-emit-project --no-header --no-annotate \
            --format requirements-txt --output-file requirements.lock
        if grep -nE '://|--(extra-)?index|--find-links' requirements.lock; then fail "requirements.lock names a place."; fi
        return
    fi

    say "packages of requirements.lock (about 3 GB to download the first time; with CUDA, which runs on CPUs as well)"
    local quiet=--quiet
    if [ -t 2 ]; then quiet=; fi  # progress for those who watch
    "$uv" pip install $quiet --python "$venv/bin/python" --require-hashes --requirement requirements.lock
    say "wildstream itself, editable"
    "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
    say "done"
}

main "$@"
