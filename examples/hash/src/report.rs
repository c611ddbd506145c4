//! What is printed: digests in the order of the files, however their tasks end.

use std::io::{self, Write};
use std::sync::Arc;

use indicatif::ProgressBar;

use crate::digest::{self, Digest};
use crate::listing::Listing;
use crate::{Event, File, note};

pub(crate) struct Report {
    files: Vec<Arc<File>>,
    /// One place for each file.
    outcomes: Vec<Option<Outcome>>,
    /// Places before this one are printed.
    printed: usize,
    ended: usize,
    trouble: bool,
    stopped_listing: bool,
    bar: ProgressBar,
}

enum Outcome {
    Hashed(Digest),
    Unreadable,
}

impl Report {
    pub(crate) fn new(listing: Listing, bar: ProgressBar) -> Self {
        for (path, why) in &listing.unreadable {
            bar.suspend(|| note(format_args!("hash: {path:?}: {why}")));
        }
        Report {
            outcomes: listing.files.iter().map(|_| None).collect(),
            files: listing.files,
            printed: 0,
            ended: 0,
            trouble: !listing.unreadable.is_empty(),
            stopped_listing: listing.stopped,
            bar,
        }
    }

    /// Takes note of an event, and prints what has become printable by it.
    pub(crate) fn take(&mut self, event: Event) -> io::Result<()> {
        let (place, outcome) = match event {
            Event::Hashed(place, digest) => (place, Outcome::Hashed(digest)),
            Event::Unreadable(place, why) => {
                self.trouble = true;
                // `{:?}`, so that it stays one line whatever the path contains.
                let path = &self.files[place].path;
                self.pause(|| note(format_args!("hash: {path:?}: {why}")));
                (place, Outcome::Unreadable)
            }
            Event::Stop(_) => return Ok(()),
        };
        self.outcomes[place] = Some(outcome);
        self.ended += 1;
        let known = self.outcomes[self.printed..].iter().take_while(|outcome| outcome.is_some()).count();
        self.print(self.printed + known)
    }

    /// Takes the bar away while `print` prints.
    pub(crate) fn pause<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }

    /// Has every file ended, and the listing been complete?
    pub(crate) fn is_complete(&self) -> bool {
        self.ended == self.files.len() && !self.stopped_listing
    }

    pub(crate) fn all_hashed(&self) -> bool {
        self.is_complete() && !self.trouble
    }

    /// Prints what is known behind the first gap, and lists the gaps.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.bar.finish_and_clear();
        self.print(self.files.len())?;
        for (file, outcome) in self.files.iter().zip(&self.outcomes) {
            if outcome.is_none() {
                note(format_args!("hash: skipped: {:?}", file.path));
            }
        }
        if self.stopped_listing {
            note(format_args!("hash: skipped: what had not been listed yet"));
        }
        Ok(())
    }

    fn print(&mut self, end: usize) -> io::Result<()> {
        if self.printed == end {
            return Ok(());
        }
        let mut lines = Vec::new();
        for place in self.printed..end {
            if let Some(Outcome::Hashed(digest)) = &self.outcomes[place] {
                digest::write_line(&mut lines, digest, &self.files[place].path)?;
            }
        }
        self.printed = end;
        self.pause(|| {
            let mut out = io::stdout().lock();
            out.write_all(&lines)?;
            out.flush()
        })
    }
}
