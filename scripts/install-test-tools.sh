#!/usr/bin/env bash
# Installs what the heavier tests of the examples need, from Debian by name, as far as it is missing. The tests of
# the library need none of it.
set -euo pipefail

# A command, and the package that brings it.
tools=(
    "redis-server redis-server"
    "chromium chromium"
    "chromedriver chromium-driver"
)

# The packages of the commands that are not there.
missing() {
    local tool command package
    for tool in "${tools[@]}"; do
        read -r command package <<<"$tool"
        command -v "$command" >/dev/null || echo "$package"
    done
}

give_up() {
    echo "cannot install what the tests of orders and handoff need: $1" >&2
    exit 1
}

mapfile -t packages < <(missing)
[ ${#packages[@]} -gt 0 ] || {
    echo "nothing is missing"
    exit 0
}
command -v apt-get >/dev/null || give_up "there is no apt-get; please install ${packages[*]}"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "neither root nor sudo; please install ${packages[*]}"
    as_root=(sudo)
fi
"${as_root[@]}" apt-get update || give_up "\`apt-get update\` failed"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" ||
    give_up "\`apt-get install ${packages[*]}\` failed"

mapfile -t packages < <(missing)
[ ${#packages[@]} -eq 0 ] || give_up "${packages[*]} came without the command that was looked for"
