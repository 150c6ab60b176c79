#!/usr/bin/env bash
# Installs what this machine lacks: Debian packages of packages.txt, npm packages of
# package-lock.json. Quick and silent when nothing is missing.
#
#   tools/setup.sh [section...]     sections of packages.txt; none = all of them
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

NODE_MAJOR=20
STAMP=node_modules/.claudegate-package-lock.json

# wanted SECTION...: the package names of these sections, or of all.
wanted() {
    awk -v want=" $* " '
        { sub(/#.*/, "") }
        /^\[/ { gsub(/[][ ]/, ""); use = want == "  " || index(want, " " $0 " "); next }
        use && NF { print $1 }' packages.txt | sort -u
}

missing_of() {
    local have
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' || true)
    comm -23 <(printf '%s\n' "$@" | sort -u) <(printf '%s\n' "$have" | sort -u)
}

# as_root COMMAND...: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    elif [ -t 0 ]; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

apt_install() {
    as_root apt-get -q -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 \
        install --no-install-recommends "$@"
}

install_debian() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "setup: no apt here; make sure that what these Debian packages hold is installed: $*"
        return 0
    fi
    local missing
    mapfile -t missing < <(missing_of "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        die "these packages are missing, and this is neither root nor is there sudo. Run as root:
    apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    fi
    say "setup: installing ${#missing[@]} Debian packages: ${missing[*]}"
    # The package lists are fetched only when the ones present do not do.
    if ! apt-get -q install -s --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        ! apt_install "${missing[@]}"; then
        as_root apt-get -q -o Acquire::Retries=2 update
        apt_install "${missing[@]}" ||
            die "apt-get could not install: ${missing[*]} (its messages are above)"
    fi
}

node_major() {
    local v
    v=$(node --version 2>/dev/null) || v=v0
    v=${v#v}
    printf '%s' "${v%%.*}"
}

# Debian 12's own Node.js is 18; a newer Debian or an added source may have one that will do.
install_node() {
    if [ "$(node_major)" -lt $NODE_MAJOR ] && command -v apt-cache >/dev/null; then
        local candidate
        candidate=$(apt-cache policy nodejs 2>/dev/null | awk '/Candidate:/ { print $2 }')
        candidate=${candidate#*:}
        candidate=${candidate%%.*}
        case $candidate in
        '' | *[!0-9]*) ;;
        *) [ "$candidate" -lt $NODE_MAJOR ] || install_debian nodejs ;;
        esac
    fi
    if [ "$(node_major)" -lt $NODE_MAJOR ]; then
        die "Node.js $NODE_MAJOR or newer is needed (for npm, which brings the claude program, and for
the tests); found: $(node --version 2>/dev/null || echo none). See https://nodejs.org/en/download"
    fi
    command -v npm >/dev/null || install_debian npm
    command -v npm >/dev/null || die "npm is needed: it comes with Node.js from https://nodejs.org"
}

npm_ci() { # the tests' clients only where they are wanted
    local omit=--omit=dev
    [ -z "$clients" ] || omit=
    npm ci --no-audit --no-fund --loglevel=error $omit
}

# npm reports success when an optional package (claude's program for this machine) is left out.
check_claude() {
    local home
    home=$(mktemp -d)
    if ! env -i PATH="$PATH" HOME="$home" timeout 30 node_modules/.bin/claude --version >/dev/null; then
        rm -rf "$home"
        die "npm installed a claude program that does not start on this machine"
    fi
    rm -rf "$home"
}

# The stamp is a copy of the lock file, not a time: a fresh checkout has new times everywhere.
install_npm() {
    local clients=
    [[ $# -gt 0 && " $* " != *" test "* ]] || clients=1
    cmp -s package-lock.json "$STAMP" && { [ -z "$clients" ] || [ -e "$STAMP.clients" ]; } && return 0
    say "setup: installing npm packages"
    npm_ci || {
        say "setup: npm ci failed, once more"
        sleep 3
        npm_ci
    } || die "npm ci failed twice (its messages are above)"
    check_claude
    cp package-lock.json "$STAMP"
    [ -z "$clients" ] || touch "$STAMP.clients"
}

mapfile -t packages < <(wanted "$@")
[ ${#packages[@]} -gt 0 ] || die "packages.txt has no section: $*"
install_debian "${packages[@]}"
install_node
install_npm "$@"
