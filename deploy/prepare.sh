# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by deploy/demo.sh and tests/run.sh: install what is missing, and nothing else.

# cron gives neither a home, which Go's caches need, nor the folders of dpkg's own programs.
export PATH="${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"

# Bold is for a terminal.
if [ -t 2 ]; then BOLD=$'\033[1m' PLAIN=$'\033[0m'; else BOLD='' PLAIN=''; fi
say() { printf '%s%4ds%s  %s\n' "$BOLD" "$SECONDS" "$PLAIN" "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 4; }

# need_packages FILE...: the Debian packages listed in these files, one a line, # begins a comment.
need_packages() {
    local missing=() name log
    # shellcheck disable=SC2013  # words are wanted, not lines
    for name in $(sed 's/#.*//' "$@"); do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || fail "packages are missing and only root can install them: ${missing[*]}"
    say "installing ${missing[*]}"
    log=$(mktemp --suffix=.log "${TMPDIR:-/tmp}/otel-qemu-apt-XXXXXX")
    install_packages "${missing[@]}" >"$log" 2>&1 </dev/null || fail "apt-get could not install them: see $log"
    rm -f "$log"
}

# Nobody is there to answer a question, and another apt-get may run: it is waited for, but not for ever.
install_packages() {
    local patient=(-qq -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold)
    apt-get update "${patient[@]}" &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${patient[@]}" "$@"
}

# need_environment EXTRA: .venv with this checkout in it, with the distribution's bcc and libvirt visible.  EXTRA, as
# pip has it ([dev], or empty for none), is added to what is there, and stays.  .venv is made anew only when
# pyproject.toml has changed.
need_environment() {
    local extra=${1:-} had=()
    exec 8<pyproject.toml
    flock --timeout 900 8 || fail "another command has been making .venv for 15 minutes: wait for its end"
    if [ -r .venv/extras ]; then mapfile -t had <.venv/extras; fi
    if ! is_environment_current; then
        say "making the virtual environment .venv"
        make_environment
        for extra in "$extra" "${had[@]}"; do install_extra "$extra"; done
        cp pyproject.toml .venv/made-from
    elif ! has_extra "$extra"; then
        say "adding $extra to the virtual environment .venv"
        install_extra "$extra"
    fi
    exec 8<&-
}

make_environment() {
    rm -rf .venv
    /usr/bin/python3 -m venv --system-site-packages .venv
}

is_environment_current() {
    .venv/bin/python -c '' 2>/dev/null && [ -f .venv/extras ] && cmp -s pyproject.toml .venv/made-from
}

# .venv/extras has a line for each extra; the empty line is the package itself.
has_extra() { grep -qxF -e "$1" .venv/extras 2>/dev/null; }

pip_install() { .venv/bin/pip install --quiet --disable-pip-version-check --no-input "$@"; }

install_extra() {
    if has_extra "$1"; then return; fi
    pip_install --editable ".$1" || fail "pip could not install the dependencies of pyproject.toml"
    printf '%s\n' "$1" >>.venv/extras
    has_extra '' || echo >>.venv/extras
}
