#!/usr/bin/env bash
# Makes the picture of the operators' page that the README shows: a real server, a minute's orders, a real browser.
# Inter, from Debian's fonts-inter, makes it look as it does on most desktops; without it the picture is made with
# what there is.
set -euo pipefail
cd "$(dirname "$0")/.."

fonts=$(mktemp)
trap 'rm -f "$fonts"' EXIT
cat >"$fonts" <<'XML'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <match target="pattern">
    <test name="family"><string>system-ui</string></test>
    <edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit>
  </match>
  <match target="pattern">
    <test name="family"><string>sans</string></test>
    <edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit>
  </match>
  <match target="pattern">
    <test name="family"><string>sans-serif</string></test>
    <edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit>
  </match>
</fontconfig>
XML

mkdir -p docs
FONTCONFIG_FILE=$fonts SCREENSHOT=${1:-$PWD/docs/orders-page.png} \
    cargo test --quiet -p orders --test end_to_end -- --ignored --exact page::screenshot
