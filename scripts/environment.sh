# Sourced by the other scripts: makes .venv with everything the project needs, once, and tells what it does.
# On Debian it installs what is missing from Debian where it may (root, or sudo without a password).

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '\n== %s\n' "$*" >&2; }

# Run a command as root; false where that can't be had without asking for a password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"; else return 1; fi
}

# Install Debian packages; false where this is no Debian or nobody may.
debian_install() {
    command -v apt-get >/dev/null || return 1
    if [ -z "${apt_lists_fresh:-}" ]; then
        as_root apt-get update -q >/dev/null || return 1
        apt_lists_fresh=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null
}

make_environment() {
    local python=${PYTHON:-python3} stamp
    command -v "$python" >/dev/null || { say "Installing Python"; debian_install python3 python3-venv; }
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Python 3.11 or newer is needed; set PYTHON to one." >&2
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "Installing python3-venv"
        debian_install python3-venv || { echo "Install python3-venv first (apt-get install python3-venv)." >&2; exit 1; }
    fi
    stamp=$(cat setup.cfg constraints.txt | sha256sum | cut -d' ' -f1)
    if [ "$(cat .venv/installed 2>/dev/null)" != "$stamp" ]; then
        say "Making .venv (some minutes; PyTorch is large)"
        "$python" -m venv .venv || exit 1
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
            -e '.[test,train,cluster,tracing,docs]' || exit 1
        echo "$stamp" >.venv/installed
    fi
    scripts/console-assets ||
        echo "The console does without what it takes from npm: run scripts/console-assets where npm can fetch it." >&2
    # Not on PATH: pynetdicom installs programs of the same names as DCMTK's.
    bin=$PWD/.venv/bin
}
