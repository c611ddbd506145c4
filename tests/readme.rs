//! What the README says is there: the tests that hold each promise, and every file that it links to.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

const README: &str = include_str!("../README.md");

/// The Markdown links of `text` into this repository: what is shown, and the file.
fn links(text: &str) -> Vec<(&str, &str)> {
    let targets = text.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0);
    let shown = text.split("](").map(|before| before.rsplit_once('[').map_or("", |(_, shown)| shown));
    shown.zip(targets).filter(|(_, target)| !target.contains("://")).collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Does `source` have a test of that name?
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim_start).collect();
    let Some(at) = lines.iter().position(|line| line.starts_with(&format!("fn {name}("))) else {
        return false;
    };
    lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(|line| *line == "#[test]")
}

/// The promises, in order, each with what stands with it.
fn promises() -> Vec<String> {
    let (_, section) = README.split_once("\n## What is guaranteed\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut promises = Vec::<String>::new();
    for line in section.lines() {
        let number = line.split_once(". ").and_then(|(number, _)| number.parse::<usize>().ok());
        if number == Some(promises.len() + 1) {
            promises.push(String::new());
        }
        if let Some(promise) = promises.last_mut() {
            promise.push_str(line);
        }
    }
    promises
}

#[test]
fn every_file_that_it_links_to_is_there() {
    let links = links(README);
    assert!(links.len() > 30, "{links:?}");
    for (_, file) in links {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "there is no {file}");
    }
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let promises = promises();
    assert_eq!(promises.len(), 12);
    for (number, promise) in (1..).zip(&promises) {
        let tests = links(promise);
        let (first, file) = tests[0];
        assert!(first.starts_with(&format!("`p{number:02}_")), "{first} stands with promise {number}");
        assert_eq!(file, "tests/promises.rs");
        assert!(tests.len() > 1, "something else tries to break promise {number}");
        for (shown, file) in tests {
            let name = shown.trim_matches('`');
            assert!(has_test(&read(file), name), "{file} has no test {name}");
        }
    }
}

#[test]
fn every_script_and_file_that_it_tells_to_look_at_is_there() {
    let quoted = README.split('`').skip(1).step_by(2).filter_map(|code| code.split_whitespace().next());
    let files: Vec<_> =
        quoted.filter(|word| word.starts_with("scripts/") || word.starts_with("src/")).collect();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "there is no {file}");
    }
}
