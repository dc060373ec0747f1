# shellcheck shell=bash
# Sourced by deploy/demo.sh and tests/run.sh: install what is missing, and nothing else.

say() { printf '\033[1m%4ds\033[0m  %s\n' "$SECONDS" "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 4; }

# need_packages FILE...: the Debian packages listed in these files, one a line, # begins a comment.
need_packages() {
    local missing=() name
    for name in $(sed 's/#.*//' "$@"); do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || fail "packages are missing and only root can install them: ${missing[*]}"
    say "installing ${missing[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
        >/tmp/otel-qemu-apt.log 2>&1 || fail "apt-get could not install them: see /tmp/otel-qemu-apt.log"
}

# need_environment EXTRA: .venv with this checkout in it, with the distribution's bcc and libvirt visible.
need_environment() {
    local python=.venv/bin/python stamp=.venv/made-from
    if [ -x $python ] && cmp -s pyproject.toml $stamp; then return; fi
    say "making the virtual environment .venv"
    rm -rf .venv
    /usr/bin/python3 -m venv --system-site-packages .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --editable ".${1:-}" ||
        fail "pip could not install the dependencies of pyproject.toml"
    cp pyproject.toml $stamp
}
