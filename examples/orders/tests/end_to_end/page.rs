//! What the operators' page shows, in a real browser.
//!
//! Covered: rows come and go with their tasks; text of clients stays text; the drain and what it waits for; the
//! cancelling, and a server that is gone; many tasks; keyboard, roles and names, contrast in both colour schemes, a
//! phone's width, motion.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::support::{Files, Server, Signal};

/// Long enough that no test meets the end of its drain.
const PATIENT: [&str; 2] = ["--drain-ms", "600000"];
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// The body of an order.
fn order(item: &str, simulate: Option<&str>) -> String {
    json!({ "item": item, "quantity": 2, "simulate": simulate }).to_string()
}

/// The cells of each row.
fn rows(browser: &Browser) -> Vec<Vec<String>> {
    let rows = browser.run(
        "return [...document.querySelectorAll('tbody tr')]
            .map((row) => [...row.cells].map((cell) => cell.textContent))",
    );
    serde_json::from_value(rows).unwrap()
}

fn row_count(browser: &Browser) -> u64 {
    browser.run("return document.querySelectorAll('tbody tr').length").as_u64().unwrap()
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn rows_appear_and_vanish_with_their_tasks() {
    let files = Files::new();
    let server = Server::start(&files, &["--threads", "1", "--mail-ms", "5000"]);
    let browser = Browser::open(&server.admin_url("/"));
    browser.until("!document.querySelector('#none').hidden");
    assert!(browser.text("#none").starts_with("Nothing"), "{}", browser.text("#none"));

    server.order(&order("tea", None));
    server.order(&order("more tea", Some("slow")));
    browser.until("document.querySelectorAll('tbody tr').length === 2");
    browser.until("document.querySelector('tbody .note-of').textContent !== ''");
    let shown = rows(&browser);
    assert_eq!([&shown[0][1], &shown[0][2]], ["order 1 (2 x tea)", "running"]);
    assert_eq!(shown[0][4], "waiting for the mail server");
    assert_eq!([&shown[1][1], &shown[1][2], &shown[1][4]], ["order 2 (2 x more tea)", "queued", ""]);
    assert!(shown[0][3].ends_with(" s"), "no age: {shown:?}");

    browser.until("document.querySelectorAll('tbody tr').length === 1");
    assert_eq!(rows(&browser)[0][1], "order 2 (2 x more tea)");
    browser.until("document.querySelector('#rate-more').textContent === '1 succeeded of 2'");
    server.order(&order("bad tea", Some("fail")));
    browser.until("document.querySelector('#live').textContent === '2'");
    assert_eq!(browser.text("#live-more"), "1 running, 1 queued");
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn what_a_client_wrote_stays_text() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let hostile = [
        "<script>window.owned = 1</script>",
        "<img src=x onerror='window.owned = 1'>",
        "</bdi></td></tr></table><h1>owned</h1>",
        "\"'`&amp;${window.owned = 1}\\",
        "\u{202e}gnidaer sdrawkcab \u{2067}שלום עולם",
        "مرحبا <b>",
        "line\nbreak\r\n\ttab\0nul",
        &"W".repeat(200),
    ];
    let browser = Browser::open(&server.admin_url("/"));
    browser.until("last !== null");
    let elements = "return document.querySelectorAll('script, img, h1, b, table').length";
    let before = browser.run(elements);
    for item in hostile {
        server.order(&order(item, Some("slow")));
        server.order(&order(item, Some("fail")));
    }
    let all = hostile.len();
    browser.until(&format!("document.querySelectorAll('tbody tr').length === {all}"));
    browser.until(&format!("document.querySelectorAll('#failures li').length === {all}"));
    let failed: Vec<String> =
        serde_json::from_value(browser.run(
            "return [...document.querySelectorAll('#failures bdi:first-child')].map((b) => b.textContent)",
        ))
        .unwrap();
    let shown = rows(&browser);
    for (number, item) in hostile.iter().enumerate() {
        assert_eq!(shown[number][1], format!("order {} (2 x {item})", 2 * number + 1));
        let as_failed = format!("order {} (2 x {item})", 2 * number + 2);
        assert!(failed.contains(&as_failed), "no {as_failed} in {failed:?}");
    }
    assert_eq!(browser.run(elements), before, "text became elements");
    assert_eq!(browser.run("return window.owned ?? null"), Value::Null);

    // Its direction is its own affair, and its length no reason to scroll sideways.
    let isolated = "return [...document.querySelectorAll('.meta > *')]
        .every((meta) => getComputedStyle(meta).unicodeBidi === 'isolate')";
    assert_eq!(browser.run(isolated), true);
    for width in [1_200, 360, 320] {
        browser.resize(width, 800);
        let wide = browser.run("return document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= width.into(), "{wide} pixels wide in a window of {width}");
    }

    // Nor could a careless change of the page make markup of it.
    let refused = "try { document.body.innerHTML = '<b>'; return false } catch { return true }";
    assert_eq!(browser.run(refused), true);
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn the_drain_shows_what_it_waits_for_and_what_is_left_of_its_budget() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let stuck = server.order(&order("glue", Some("stuck")));
    server.until(stuck, "running");
    let browser = Browser::open(&server.admin_url("/"));
    browser.until("document.querySelectorAll('tbody tr').length === 1");
    assert_eq!(browser.run("return document.querySelector('#ending').hidden"), true);
    assert_eq!(browser.text("#says"), "");

    server.signal(Signal::TERM);
    browser.until("!document.querySelector('#ending').hidden");
    assert_eq!(browser.text("#ending-title"), "Draining after SIGTERM");
    let text = browser.text("#ending-text");
    assert!(text.starts_with("Waiting for 1 task, for 9 min 5"), "{text}");
    assert!(browser.text("caption").starts_with("Still waited for"), "{}", browser.text("caption"));
    let row = &rows(&browser)[0];
    assert_eq!([&row[1], &row[2]], ["order 1 (2 x glue)", "running"]);
    assert_eq!(row[4], "waiting for a mail server that never answers");
    // It is said once, and no number after that.
    let said = browser.text("#says");
    assert!(said.starts_with("Draining after SIGTERM. Waiting for 1 task"), "{said}");

    let left = "Number(document.querySelector('#bar').getAttribute('aria-valuenow'))";
    let first = browser.run(&format!("return {left}")).as_u64().unwrap();
    browser.until(&format!("{left} < {first}"));
    assert_eq!(browser.text("#says"), said);
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn cancelling_is_shown_and_then_that_the_process_is_gone() {
    let files = Files::new();
    let server = Server::start(&files, &["--drain-ms", "0", "--cancel-ms", "600000"]);
    for (item, simulate) in [("glue", "stuck"), ("tea", "slow")] {
        let id = server.order(&order(item, Some(simulate)));
        server.until(id, "running");
    }
    let browser = Browser::open(&server.admin_url("/"));
    browser.until("document.querySelectorAll('tbody tr').length === 2");
    server.signal(Signal::TERM);
    browser.until("document.querySelectorAll('tbody tr').length === 1");
    assert_eq!(browser.text("#ending-title"), "Cancelling after SIGTERM");
    browser.until("document.querySelector('tbody .phase').textContent === 'cancelling'");
    assert_eq!(rows(&browser)[0][1], "order 1 (2 x glue)");
    let failed = browser.text("#failures li");
    assert!(failed.contains("order 2 (2 x tea)") && failed.contains("cancelled"), "{failed}");

    drop(server);
    browser.until("!document.querySelector('#lost').hidden");
    assert!(browser.text("#lost").contains("the process has ended"), "{}", browser.text("#lost"));
    assert_eq!(rows(&browser)[0][1], "order 1 (2 x glue)");
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn a_server_that_was_started_anew_is_shown_in_place_of_the_old_one() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let port = server.admin.port().to_string();
    server.order(&order("old tea", Some("slow")));
    let browser = Browser::open(&server.admin_url("/"));
    browser.until("document.querySelectorAll('tbody tr').length === 1");
    assert_eq!(rows(&browser)[0][1], "order 1 (2 x old tea)");
    drop(server);
    browser.until("!document.querySelector('#lost').hidden");

    // Its tasks have the ids that those of the old one had.
    let server = Server::start(&Files::new(), &["--drain-ms", "600000", "--admin-port", &port]);
    server.order(&order("new tea", Some("slow")));
    browser.until("document.querySelector('#lost').hidden && last.tasks.length === 1");
    let pid = browser.run("return last.pid");
    browser.until("document.querySelector('tbody .meta').textContent.includes('new tea')");
    assert!(browser.text("#state").contains(&format!("process {pid}, ")), "{}", browser.text("#state"));
    assert_eq!(rows(&browser).len(), 1);
}

/// By answers made up: these receipts are not retried, and how fast they come is not ours to say.
#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn attempts_and_rates_are_what_the_answers_say() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let browser = Browser::open(&server.admin_url("/"));
    browser.until("last !== null");
    browser.run("document.querySelector('#pause').click()");
    let shown = "
        const task = { id: '7', meta: 'tea', phase: 'delayed', age_ms: 1000, running_ms: 0, thread: null };
        const answer = (uptime_ms, succeeded) => show({ ...last, pid: 1, uptime_ms,
            counts: { ...last.counts, succeeded, accepted: succeeded + 2 },
            tasks: [{ ...task, attempt: 3, progress: null }, { ...task, id: '8', attempt: 2, progress: 'page 1' }] });
        answer(1000, 0);
        answer(11000, ADDED);
        return [...document.querySelectorAll('td.note-of, #rate, #trend-more')].map((node) => node.textContent)";
    let shown = |added: &str| browser.run(&shown.replace("ADDED", added));
    assert_eq!(
        shown("0"),
        json!(["0", "up to 0 a second, in the last 10 s", "attempt 3", "attempt 2: page 1"])
    );
    assert_eq!(
        shown("4"),
        json!(["0.4", "up to 0.4 a second, in the last 10 s", "attempt 3", "attempt 2: page 1"])
    );
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn two_thousand_live_tasks_do_not_freeze_it() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let browser = Browser::open(&server.admin_url("/"));
    browser.run(
        "window.gap = 0; let before = performance.now();
         (function frame(now) { gap = Math.max(gap, now - before); before = now; requestAnimationFrame(frame) })(before)",
    );
    let slow = order("slow tea", Some("slow"));
    for _ in 0..2_000 {
        server.order(&slow);
    }
    browser.until("document.querySelector('#live').textContent === '2,000'");
    assert_eq!(row_count(&browser), 200);
    assert!(browser.text("caption").contains("200 of 2,000"), "{}", browser.text("caption"));

    browser.run("document.querySelector('#more').focus()");
    browser.press(ENTER);
    browser.until("document.querySelectorAll('tbody tr').length === 2000");
    let focused = browser.run("return document.activeElement.cells[1].textContent");
    assert_eq!(focused, "order 201 (2 x slow tea)", "the first that the button brought");
    // Three answers later it has drawn them all again, thrice.
    let at = browser.run("return last.uptime_ms").as_u64().unwrap();
    browser.until(&format!("last.uptime_ms > {at} + 3000"));
    browser.run("document.querySelector('#filter').focus()");
    browser.press("order 1999 ");
    browser.until("document.querySelectorAll('tbody tr').length === 1");
    assert_eq!(rows(&browser)[0][1], "order 1999 (2 x slow tea)");
    assert_eq!(browser.text("#says"), "1 task found.");

    let gap = browser.run("return window.gap").as_f64().unwrap();
    eprintln!("the longest time without a frame: {gap:.0} ms");
    assert!(gap < 2_000.0, "no frame for {gap} ms");
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn it_is_used_by_keyboard_and_pauses() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let browser = Browser::open(&server.admin_url("/"));
    browser.until("last !== null");
    browser.press(TAB);
    let focus = "const { id } = document.activeElement; return id";
    assert_eq!(browser.run(focus), "pause");
    let outline = "return getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.run(outline), "solid", "the focus is not seen");
    browser.press(ENTER);
    let pressed = "document.querySelector('#pause').getAttribute('aria-pressed')";
    browser.until(&format!("{pressed} === 'true'"));
    browser.press(ENTER);
    browser.until(&format!("{pressed} === 'false'"));

    // An answer that is under way at that moment is not shown either.
    browser.run("look(); document.querySelector('#pause').click()");
    server.order(&order("tea", Some("slow")));
    // More than it takes to look again.
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!(row_count(&browser), 0);
    browser.press(ENTER);
    browser.until("document.querySelectorAll('tbody tr').length === 1");

    browser.press(TAB);
    assert_eq!(browser.run(focus), "filter");
    browser.press("coffee");
    browser.until("document.querySelectorAll('tbody tr').length === 0");
    assert_eq!(browser.text("#none"), "No task has this text.");
    assert_eq!(browser.text("#says"), "No task has this text.", "nor is it left to be seen");
}

/// What a screen reader is told, also where the rows are no table boxes.
#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn the_table_and_the_drain_have_roles_and_names() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let browser = Browser::open(&server.admin_url("/"));
    server.order(&order("tea", Some("slow")));
    server.signal(Signal::TERM);
    browser.until("!document.querySelector('#ending').hidden");
    for width in [1_200, 360] {
        browser.resize(width, 800);
        let tree = browser.devtools("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().unwrap();
        let named = |role: &str| -> Vec<&str> {
            let of_role =
                nodes.iter().filter(|node| node["ignored"] == false && node["role"]["value"] == role);
            of_role.map(|node| node["name"]["value"].as_str().unwrap_or_default()).collect()
        };
        let tables = named("table");
        assert!(tables.len() == 1 && tables[0].starts_with("Still waited for"), "at {width}: {tables:?}");
        assert_eq!(named("columnheader"), ["Id", "Task", "Phase", "Age", "Progress"], "at {width}");
        assert_eq!(named("rowheader"), ["1"], "at {width}");
        assert_eq!(named("cell").len(), 4, "at {width}");
        assert_eq!(named("progressbar"), ["Budget left"]);
        assert_eq!(named("searchbox"), ["Show only tasks with this text"]);
        assert_eq!(named("button"), ["Pause"]);
        assert_eq!(named("status").len(), 1);
        assert!(named("heading").contains(&"Receipts"));
    }
}

/// By the formula of WCAG 2, for all text that stands on the page: level AA asks for 4.5.
const CONTRASTS: &str = r"
    const channel = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const parse = (color) => color.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) =>
        0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const color = parse(getComputedStyle(node).backgroundColor);
            if (color.length < 4 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        const says = texts.currentNode.textContent.trim();
        if (!says || !node.checkVisibility() || node.matches('script, style')) continue;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
        found.push([says, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
    }
    return found;";

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn all_text_has_contrast_in_light_and_in_dark() {
    let files = Files::new();
    let server = Server::start(&files, &["--threads", "1", "--drain-ms", "0", "--cancel-ms", "600000"]);
    let browser = Browser::open(&server.admin_url("/"));
    server.order(&order("bad tea", Some("fail")));
    let stuck = server.order(&order("glue", Some("stuck")));
    server.until(stuck, "running");
    server.order(&order("tea", None));
    browser.until("document.querySelectorAll('tbody tr').length === 2");
    let mut grounds = Vec::new();
    for (moment, condition) in [
        ("open", "!document.querySelector('#failures').hidden"),
        ("cancelling", "document.querySelector('tbody .cancelling') !== null"),
    ] {
        browser.until(condition);
        for scheme in ["light", "dark"] {
            browser.prefer("prefers-color-scheme", scheme);
            let found: Vec<(String, f64)> = serde_json::from_value(browser.run(CONTRASTS)).unwrap();
            assert!(found.len() > 25, "{found:?}");
            for (text, ratio) in found {
                assert!(ratio >= 4.5, "{moment}, {scheme}: {text:?} has a contrast of {ratio:.1}");
            }
            grounds.push(browser.run("return getComputedStyle(document.documentElement).backgroundColor"));
        }
        if moment == "open" {
            server.signal(Signal::TERM);
        }
    }
    assert_ne!(grounds[0], grounds[1], "the colour scheme makes no difference");
    let dashes = "return ['.done', '.failed']
        .map((line) => getComputedStyle(document.querySelector(`#trend ${line}`)).strokeDasharray !== 'none')";
    assert_eq!(browser.run(dashes), json!([false, true]), "two lines that only a colour tells apart");
}

#[test]
#[ignore = "needs chromium and chromedriver: scripts/install-test-tools.sh, then cargo test -p orders -- --ignored"]
fn nothing_moves_for_those_who_asked_for_that() {
    let files = Files::new();
    let server = Server::start(&files, &PATIENT);
    let browser = Browser::open(&server.admin_url("/"));
    let moving = "return [...document.querySelectorAll('*')]
        .some((node) => parseFloat(getComputedStyle(node).transitionDuration) > 0 || node.getAnimations().length)";
    browser.prefer("prefers-reduced-motion", "no-preference");
    assert_eq!(browser.run(moving), true);
    browser.prefer("prefers-reduced-motion", "reduce");
    assert_eq!(browser.run(moving), false);
}

/// Some orders of a day, for the README.
#[test]
#[ignore = "writes a picture: scripts/gallery.sh"]
fn screenshot() {
    let Some(file) = std::env::var_os("SCREENSHOT") else { return };
    let files = Files::new();
    let server = Server::start(&files, &["--threads", "8", "--mail-ms", "700"]);
    let browser = Browser::open(&server.admin_url("/"));
    browser.resize(960, 800);
    server.order(&order("Assam, loose leaf", Some("slow")));
    server.order(&order("Genmaicha", Some("slow")));
    let teas =
        ["Darjeeling, first flush", "Earl Grey", "שיח מרווה", "Sencha", "mint & <b>lemon</b>", "Rooibos"];
    let mut round = 0;
    // Half a minute's, and then until the page shows a moment with something to see.
    while round < 60 || row_count(&browser) <= 5 {
        for tea in &teas[..1 + round % 7 % 6] {
            server.order(&json!({ "item": tea, "quantity": 1 + round % 4 }).to_string());
        }
        if round % 20 == 10 {
            server.order(&order("Lapsang Souchong", Some("fail")));
        }
        thread::sleep(Duration::from_millis(500));
        round += 1;
    }
    // All of it, down to the failures.
    let height = browser.run("return document.documentElement.scrollHeight").as_u64().unwrap();
    browser.resize(960, height.try_into().unwrap());
    fs::write(file, browser.picture()).unwrap();
}
