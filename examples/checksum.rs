//! A parallel checksum (CRC-32, as of zip and gzip) of files and directory trees: tasks that borrow, in a scope.
//!
//! `cargo run --example checksum -- FILE...` prints a line for each file, sorted by its path, and reports what it
//! could not read on stderr, with exit code 1. Without arguments it takes the folder `examples`.

use inflight::{BoxError, Context, Scope};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is known of each path: its checksum and length, or why there is none.
type Sums = Mutex<BTreeMap<PathBuf, Result<(u32, u64), String>>>;

fn main() -> ExitCode {
    let mut roots: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if roots.is_empty() {
        roots.push("examples".into());
    }
    let table = crc_table();
    let sums = Sums::default();
    let broken = AtomicBool::new(false);
    inflight::scope(|s| {
        s.on_task_failed(|_cx, (), error| {
            eprintln!("checksum: {error}");
            broken.store(true, Ordering::Relaxed);
        });
        for root in &roots {
            visit(s, root.clone(), &table, &sums);
        }
    });

    let mut code = if broken.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    for (path, sum) in sums.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        match sum {
            Ok((crc, length)) => println!("{crc:08x} {length:>10} {}", path.display()),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// Starts a task for `path`; that of a folder starts one for each of its entries.
fn visit<'scope>(s: &Scope<'scope, '_, ()>, path: PathBuf, table: &'scope [u32; 256], sums: &'scope Sums) {
    let inner = s.clone();
    let task = move |_cx: &Context| -> Result<(), BoxError> {
        let found = if path.is_dir() {
            entries(&path).map(|entries| {
                for entry in entries {
                    visit(&inner, entry, table, sums);
                }
                None
            })
        } else {
            checksum(&path, table).map(Some)
        };
        let sum = match found {
            Ok(None) => return Ok(()),
            Ok(Some(sum)) => Ok(sum),
            Err(error) => Err(error.to_string()),
        };
        sums.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(path, sum);
        Ok(())
    };
    // A scope takes tasks until its closure has returned and they are gone; without a thread, do it right here.
    if let Err(rejected) = s.run((), task) {
        if let Err(error) = rejected.run_here() {
            eprintln!("checksum: {error}");
        }
    }
}

/// What is in a folder, symbolic links left out: they may lead in circles.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_symlink() {
            entries.push(entry.path());
        }
    }
    Ok(entries)
}

fn checksum(path: &Path, table: &[u32; 256]) -> io::Result<(u32, u64)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 * 1024];
    let (mut crc, mut length) = (u32::MAX, 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((!crc, length));
        }
        crc = update(crc, &buffer[..read], table);
        length += read as u64;
    }
}

fn update(crc: u32, bytes: &[u8], table: &[u32; 256]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| (crc >> 8) ^ table[usize::from((crc as u8) ^ byte)])
}

/// The table of CRC-32 with the reflected polynomial of ISO 3309.
fn crc_table() -> [u32; 256] {
    std::array::from_fn(|byte| {
        let byte = u32::try_from(byte).expect("a table of bytes has 256 entries");
        (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(!update(u32::MAX, b"123456789", &crc_table()), 0xCBF4_3926);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(checksum(Path::new("no such file"), &crc_table()).is_err());
    }
}
