#!/usr/bin/env bash
# Makes the gallery of the README: the picture of the operators' page (a real server, a minute's orders, a real
# browser), and what the examples print on a terminal.
#
#     scripts/gallery.sh           both
#     scripts/gallery.sh page      only docs/orders-page.png; scripts/install-test-tools.sh installs the browser
#     scripts/gallery.sh terminal  only the text between the two marks in README.md
#
# Inter, from Debian's fonts-inter, makes the page look as it does on most desktops; without it the picture is made with
# what there is. Port 8080 and the next have to be free, and there must be curl.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

page() {
    cat >"$work/fonts.conf" <<'XML'
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
    FONTCONFIG_FILE=$work/fonts.conf SCREENSHOT=$root/docs/orders-page.png \
        cargo test --quiet -p orders --test end_to_end -- --ignored --exact page::screenshot
}

# Waits until the file has a line with this text.
until_said() {
    for _ in $(seq 600); do
        ! grep -qF -- "$2" "$1" || return 0
        sleep 0.1
    done
    printf '%s is not said in:\n' "$2" >&2
    cat "$1" >&2
    return 1
}

# A block of the README: a line of what it shows, and the transcript that comes on stdin.
block() {
    printf '\n%s\n\n```console\n%s\n```\n' "$1" "$(sed 's/ *$//')"
}

quickstart() {
    echo '$ cargo run --example quickstart'
    # A panic in a task is told by the panic hook as well: without a backtrace.
    RUST_BACKTRACE=0 "$bin/examples/quickstart" 2>&1 | sed '/^note: run with/d'
}

# Two small files, and one that takes long: it is all holes.
hash() {
    cd "$work"
    echo 'milk, tea' >list.txt
    echo 'It was a dark and stormy night' >novel.txt
    truncate -s 64G disk.img
    echo '$ hash --jobs 1 --drain-ms 500 novel.txt disk.img list.txt        # and Ctrl-C while it is at disk.img'
    # Not by a shell's `&`, which starts what ignores Ctrl-C; and in the foreground, or the signal comes twice, which ends
    # it at once.
    code=0
    timeout --foreground --preserve-status --signal INT 2 "$bin/hash" --jobs 1 --drain-ms 500 novel.txt disk.img list.txt 2>&1 ||
        code=$?
    printf '$ echo $?\n%s\n' "$code"
}

orders() {
    cd "$work"
    local order
    "$bin/orders" --drain-ms 2000 --cancel-ms 500 >said 2>&1 &
    trap 'kill -KILL $! 2>/dev/null || true' EXIT
    until_said said 'operators: '
    printf '%s\n' '$ orders --drain-ms 2000 --cancel-ms 500 &' "$(cat said)"
    for order in '{"item": "tea", "quantity": 2}' '{"item": "mint", "quantity": 1, "simulate": "fail"}' \
        '{"item": "coffee", "quantity": 1, "simulate": "slow"}' '{"item": "glue", "quantity": 3, "simulate": "stuck"}'; do
        printf '$ curl localhost:8080/orders -d '"'%s'"'\n%s\n' "$order" \
            "$(curl --silent --show-error localhost:8080/orders -d "$order")"
    done
    until_said said 'task failed'
    local before code=0
    before=$(wc -l <said)
    kill -TERM $!
    wait $! || code=$?
    # What failed before, then the end.
    sed -n "3,${before}p" said
    printf '$ kill -TERM %%1\n'
    sed -n "$((before + 1)),\$p" said
    printf '$ wait %%1; echo $?\n%s\n' "$code"
}

terminal() {
    command -v curl >/dev/null || {
        echo "the gallery needs curl" >&2
        exit 1
    }
    cargo build --quiet -p inflight --example quickstart
    cargo build --quiet -p hash -p orders
    {
        (quickstart) | block "The [quickstart](examples/quickstart.rs): a task that succeeds, one that fails, one that panics."
        (hash) | block "[\`hash\`](examples/hash), interrupted: it has a budget, and says what it left out."
        (orders) | block "[\`orders\`](examples/orders) at SIGTERM, with one receipt that never ends: it is named."
        echo
    } >"$work/gallery"
    sed -i -e '/^<!-- gallery:/,/^<!-- end of the gallery/{' -e "/^<!-- gallery:/r $work/gallery" -e '/^<!--/!d' -e '}' README.md
}

case ${1:-all} in
page) page ;;
terminal) terminal ;;
all) page && terminal ;;
*)
    echo "usage: $0 [page|terminal]" >&2
    exit 2
    ;;
esac
