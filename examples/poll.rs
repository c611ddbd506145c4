//! Polls a directory as a loop, and hands each file that it finds to a flaky step that is retried. What the hooks
//! say is printed.
//!
//! Run it with `cargo run --example poll`: it makes a directory of its own, drops three files into it, and ends
//! when they are imported.

use inflight::{Backoff, Context, Grace, Manager, Retry, Task};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let inbox = std::env::temp_dir().join(format!("inflight-poll-{}", std::process::id()));
    fs::create_dir_all(&inbox)?;
    let manager: Manager<String> = Manager::new();
    let (imports, imported) = mpsc::channel();
    manager
        .on_task_retried(|_cx, meta, error, attempt| println!("{meta}: attempt {attempt} failed: {error}"))
        .on_task_failed(|_cx, meta, error| println!("{meta}: given up: {error}"))
        .on_task_succeeded(move |cx, meta| {
            if meta.starts_with("import") {
                println!("{meta}: done in attempt {}", cx.attempt());
                // Nobody listens any more once all three are imported.
                let _ = imports.send(());
            }
        });

    // Tasks start tasks through a handle that holds nobody up.
    let importer = manager.uncounted();
    let folder = inbox.clone();
    let mut seen = HashSet::new();
    let poll = move |_cx: &Context| {
        for path in new_files(&folder, &mut seen)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let retry = Retry::attempts(4).backoff(Backoff::constant(Duration::from_millis(20)));
            importer.run_task(Task::retrying(format!("import {name}"), import(path)).retry(retry))?;
        }
        Ok(())
    };
    manager.run_task(Task::looping("poll".to_owned(), poll).every(Duration::from_millis(50)))?;

    for name in ["tea", "coffee", "cocoa"] {
        fs::write(inbox.join(name), name)?;
        imported.recv_timeout(Duration::from_secs(10))?;
    }
    manager.shutdown(Grace::drain(Duration::from_secs(5)))?;
    fs::remove_dir_all(&inbox)?;
    Ok(())
}

/// The files in `folder` that have not been seen before.
fn new_files(folder: &Path, seen: &mut HashSet<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut new = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if seen.insert(path.clone()) {
            new.push(path);
        }
    }
    Ok(new)
}

/// Imports one file, in the second attempt at the earliest: the first finds the database busy.
fn import(path: PathBuf) -> impl FnMut(&Context) -> Result<(), inflight::BoxError> + Send {
    move |cx| {
        if cx.attempt() == 1 {
            return Err("the database is busy".into());
        }
        let bytes = fs::read(&path)?;
        println!("{}: {} bytes", path.display(), bytes.len());
        Ok(())
    }
}
