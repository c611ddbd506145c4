//! Which files the arguments stand for.

use std::path::PathBuf;
use std::sync::Arc;

use walkdir::WalkDir;

use crate::File;

pub(crate) struct Listing {
    /// In the order of the output.
    pub(crate) files: Vec<Arc<File>>,
    /// What could not be looked into, and why.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
    /// Whether it was stopped before it had looked at everything.
    pub(crate) stopped: bool,
}

/// The files given, and the regular files of the folders given, sorted by path within each.
///
/// What is given is taken for what it is, a pipe or a link as well. `stop` is asked before each entry.
pub(crate) fn of(paths: &[PathBuf], stop: impl Fn() -> bool) -> Listing {
    let mut listing = Listing { files: Vec::new(), unreadable: Vec::new(), stopped: false };
    for given in paths {
        if !given.is_dir() {
            listing.push(given.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in WalkDir::new(given) {
            if stop() {
                listing.stopped = true;
                break;
            }
            match entry {
                Ok(entry) if entry.file_type().is_file() => found.push(entry.into_path()),
                Ok(_) => {}
                Err(error) => {
                    let path = error.path().unwrap_or(given).to_owned();
                    let why = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                    listing.unreadable.push((path, why));
                }
            }
        }
        // As bytes, so that the order is `LC_ALL=C sort`'s.
        found.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        found.into_iter().for_each(|path| listing.push(path));
    }
    listing
}

impl Listing {
    fn push(&mut self, path: PathBuf) {
        self.files.push(Arc::new(File { place: self.files.len(), path }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_is_stopped_says_so() {
        let sources = [PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
        let whole = of(&sources, || false);
        assert!(!whole.stopped && whole.files.len() > 1);
        let stopped = of(&sources, || true);
        assert!(stopped.stopped && stopped.files.is_empty());
    }
}
