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

missing=()
for tool in "${tools[@]}"; do
    read -r command package <<<"$tool"
    command -v "$command" >/dev/null || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || {
    echo "nothing is missing"
    exit 0
}
command -v apt-get >/dev/null || {
    echo "there is no apt-get here; please install: ${missing[*]}" >&2
    exit 1
}

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
