//! The SHA-256 of one file, and how it is written down.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use inflight::{BoxError, Context};
use sha2::{Digest as _, Sha256};

pub(crate) type Digest = [u8; 32];

/// A file is read, and a cancellation noticed, in pieces of this size.
const PIECE: usize = 64 * 1024;

/// The digest of what the file holds.
pub(crate) fn of(cx: &Context, path: &Path) -> Result<Digest, BoxError> {
    let mut file = fs::File::open(path)?;
    let mut piece = vec![0; PIECE];
    let mut sha256 = Sha256::new();
    loop {
        cx.check()?;
        match file.read(&mut piece) {
            Ok(0) => return Ok(sha256.finalize().into()),
            Ok(read) => sha256.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A line in the format of `sha256sum`: a path that would break the line is escaped, and a backslash at the
/// beginning says so.
pub(crate) fn write_line(out: &mut impl Write, digest: &Digest, path: &Path) -> io::Result<()> {
    let path = path.as_os_str().as_bytes();
    let mut line = Vec::with_capacity(70 + path.len());
    if path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        line.push(b'\\');
    }
    for byte in digest {
        write!(line, "{byte:02x}")?;
    }
    line.extend_from_slice(b"  ");
    for byte in path {
        match byte {
            b'\\' => line.extend_from_slice(br"\\"),
            b'\n' => line.extend_from_slice(br"\n"),
            b'\r' => line.extend_from_slice(br"\r"),
            byte => line.push(*byte),
        }
    }
    line.push(b'\n');
    out.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> String {
        let mut line = Vec::new();
        write_line(&mut line, &[0xab; 32], Path::new(path)).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_is_a_digest_two_spaces_and_a_path() {
        assert_eq!(line("a b"), format!("{}  a b\n", "ab".repeat(32)));
    }

    #[test]
    fn a_path_that_would_break_the_line_is_escaped() {
        assert_eq!(line("a\nb\\c\rd"), format!("\\{}  a\\nb\\\\c\\rd\n", "ab".repeat(32)));
    }
}
