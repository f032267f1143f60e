#!/bin/sh
# Install diffuse_framework, editable, with its test tools, into .venv over a Python that has DIALS.
#
# DIALS is not on PyPI. It is looked for in this order:
#   1. the active Python: python3, dials.python or libtbx.python on PATH (conda-forge, the DIALS installer)
#   2. /usr/bin/python3
#   3. Debian's packages, which are installed when this runs as root and apt-get is there
# Running it again only brings .venv up to date.
#
# On a terminal it asks before it calls apt-get; with --yes it does not.
#
# What pip brings is named in locks/, with the SHA-256 of each file, for the systems that have a lock there; elsewhere,
# and with --unlocked, pip takes the newest versions that go with DIALS. `make lock` (--write-locks) writes them anew.
#
# ./install.sh --extra dev (or docs) gets what developers take besides.
#
# ./install.sh --for-tests gets what only tests need: Chromium, in which they open the report, and zsh, in which they
# complete commands. Where they can't be got, it says which tests will be skipped.
set -eu
cd "$(dirname "$0")"

say() { printf 'install: %s\n' "$*"; }

stop() {
    printf 'install: %s\n' "$@" >&2
    exit 1
}

can_apt() { command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; }

# Whether apt-get may install packages as root: asked where someone is there to answer, unless with --yes.
may_apt() {
    if [ -n "$yes" ] || ! [ -t 0 ]; then return 0; fi
    printf 'install: apt-get install %s, as root? [y/N] ' "$*"
    read -r answer || return 1
    case "$answer" in y | Y | yes) return 0 ;; *) return 1 ;; esac
}

apt_install() {
    may_apt "$@" || return 1
    say "apt-get install $*"
    apt_log=$(mktemp)
    if { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@"; } >"$apt_log" 2>&1; then
        rm -f "$apt_log"
    else
        tail -n 5 "$apt_log" >&2
        rm -f "$apt_log"
        return 1
    fi
}

# An earlier install may have left the list of plugins of then in the checkout, which Python finds before the new one.
rm -rf diffuse_framework.egg-info

pip_install() {
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install -qq "$@"
}

# What pip would still bring for an extra, besides this project.
still_missing() {
    PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --dry-run --no-build-isolation \
        --constraint .venv/constraints.txt --editable ".[$1]" 2>/dev/null |
        sed -n 's/^Would install//p' | tr ' ' '\n' | grep -v '^diffuse' || true
}

# Names the system whose own packages a lock goes with; those of conda and of the installer of DIALS have none.
system_name() {
    case "$1" in /usr/bin/*) ;; *) return 0 ;; esac
    if ! [ -r /etc/os-release ]; then return 0; fi
    # shellcheck disable=SC1091 # of the system
    (. /etc/os-release && printf '%s-%s_' "$ID" "${VERSION_ID:-}")
    "$1" -c 'import platform, sys; print("python-%d.%d_%s" % (*sys.version_info[:2], platform.machine()))'
}

# Install an extra of this project into .venv: by its lock, where there is one for this system.
install_extra() {
    lock=locks/$(system_name "$1")$3.txt
    if [ -z "$unlocked" ] && [ -f "$lock" ]; then
        say "installing what $lock names"
        pip_install --require-hashes --no-deps --requirement "$lock" || return 1
        pip_install --no-deps --no-build-isolation --editable . || return 1
        missing=$(still_missing "$2")
        if [ -z "$missing" ]; then return 0; fi
        say "not in $lock, and taken as they are:" $missing
    fi
    pip_install --constraint .venv/constraints.txt --editable ".[$2]"
}

yes=
for_tests=
extra=
unlocked=
write_locks=
while [ $# -gt 0 ]; do
    case "$1" in
        --yes) yes=1 ;;
        --for-tests) for_tests=1 ;;
        --unlocked) unlocked=1 ;;
        --write-locks) write_locks=1 ;;
        --extra)
            case "${2:-}" in dev | docs) extra=$2 ;; *) stop "--extra takes dev or docs" ;; esac
            shift
            ;;
        *) stop "there is no option $1; there are --yes, --unlocked, --extra and --for-tests" ;;
    esac
    shift
done

if [ -n "$extra$write_locks" ]; then
    base=$(.venv/bin/python -c 'import sys; print(sys._base_executable)') || stop "run ./install.sh first"
fi
if [ -n "$write_locks" ]; then
    system=$(system_name "$base")
    [ -n "$system" ] || stop "locks go with the packages of a system, and $base is none of them"
    exec "$base" locks/make_locks.py "$system"
fi
if [ -n "$extra" ]; then
    install_extra "$base" "$extra" "-$extra" || stop "pip could not install what make $extra takes"
    exit 0
fi

if [ -n "$for_tests" ]; then
    has_browser() {
        for name in chromium chromium-browser google-chrome chrome headless_shell; do
            if command -v "$name" >/dev/null 2>&1; then return 0; fi
        done
        return 1
    }
    wanted=
    has_browser || wanted=chromium
    command -v zsh >/dev/null 2>&1 || wanted="$wanted zsh"
    # shellcheck disable=SC2086 # words, each a package
    if [ -n "$wanted" ] && can_apt; then apt_install $wanted || say "apt-get could not install $wanted"; fi
    has_browser || say "no Chromium: tests of the report in a browser will be skipped (Debian: apt-get install chromium)"
    command -v zsh >/dev/null 2>&1 || say "no zsh: the test of completion in zsh will be skipped (apt-get install zsh)"
    exit 0
fi

# The interpreter behind a command, or behind the virtual environment it belongs to; empty without DIALS.
python_with_dials() {
    base=$("$1" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))' 2>/dev/null) || return 0
    if "$base" -c 'import dials, dxtbx' >/dev/null 2>&1; then echo "$base"; fi
}

find_python() {
    for candidate in python3 dials.python libtbx.python /usr/bin/python3; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        found=$(python_with_dials "$candidate")
        if [ -n "$found" ]; then echo "$found"; return; fi
    done
}

python=$(find_python)
if [ -z "$python" ] && can_apt; then
    say "no Python here can import DIALS; asking apt-get for it (a few minutes, once)"
    apt_install python3-dials dials python3-venv || say "apt-get could not install DIALS"
    python=$(find_python)
fi
[ -n "$python" ] || stop \
    "no Python here can import DIALS, and it cannot come from PyPI. Get it in one of these ways, then run this again:" \
    "  conda, mamba, micromamba:  conda env create -f environment.yml && conda activate diffuse" \
    "  Debian 12, as root:        apt-get install python3-dials dials python3-venv"
say "DIALS found in $python"

if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    { can_apt && apt_install python3-venv; } || stop \
        "$python cannot make virtual environments. On Debian, as root: apt-get install python3-venv"
fi

# Start .venv afresh if it stands over another Python, or over none that still runs.
over=$(.venv/bin/python -c 'import sys; print(sys.base_prefix, sys.version_info[:2])' 2>/dev/null || true)
want=$("$python" -c 'import sys; print(sys.base_prefix, sys.version_info[:2])')
if [ "$over" != "$want" ]; then
    "$python" -m venv --clear --system-site-packages .venv
fi

# libtbx looks for its settings below sys.prefix, which is now .venv.
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
for place in "lib/cctbx/$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')" share/cctbx; do
    if [ -d "$prefix/$place" ]; then
        mkdir -p ".venv/$(dirname "$place")"
        ln -sfn "$prefix/$place" ".venv/$place"
    fi
done

# A DIALS compiled against numpy 1 does not load beside numpy 2.
"$python" -c 'import numpy; print("numpy<2" if numpy.__version__.startswith("1.") else "")' >.venv/constraints.txt

say "installing diffuse_framework into .venv"
install_extra "$python" test "" || stop \
    "pip could not install diffuse_framework into .venv; its message is above. It needs a connection to PyPI." \
    "If it says that a hash does not match, or that a version is gone: ./install.sh --unlocked takes the newest ones."

# Without what it requires: pip would bring another h5py beside that of DIALS, with another HDF5 library.
pip_install --no-deps hdf5plugin || say \
    "pip could not install hdf5plugin: images in HDF5 compressed with bitshuffle can't be read"

.venv/bin/python -c 'import libtbx.load_env, dials.util.options, dxtbx.model, h5py, numba' || stop \
    "DIALS, h5py or numba does not import in .venv; the reason is the last line above." \
    "Remove .venv and try again; if $python has a broken DIALS, use environment.yml instead."
.venv/bin/python -c '
from dials.util.version import dials_version
import numba, numpy
print("install: ready:", dials_version(), "numpy", numpy.__version__, "numba", numba.__version__)'
