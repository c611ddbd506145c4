//! The tool as a script and a person use it: its output, its exit codes, and its end by Ctrl-C.
//!
//! A named pipe stands for a file that takes long: that it can be opened for writing says that its task has
//! begun, and the task ends when the test has written.
#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// After this a test counts as hanging. Nothing that works comes near it.
const HANG: Duration = Duration::from_secs(60);

/// The digest of "abc", from FIPS 180-2.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn hash(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hash"));
    command.current_dir(folder).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder with these files, each holding "abc".
fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "abc").unwrap();
    }
    folder
}

fn pipe(folder: &Path, name: &str) {
    mknodat(CWD, folder.join(name), FileType::Fifo, Mode::RWXU, 0).unwrap();
}

/// Waits until a task has begun to read the pipe.
fn begun(folder: &Path, name: &str) -> File {
    let patience = Instant::now() + HANG;
    loop {
        // Refused, rather than held up, while there is no reader.
        let flags = OFlags::NONBLOCK.bits() as i32;
        match OpenOptions::new().write(true).custom_flags(flags).open(folder.join(name)) {
            Ok(pipe) => return pipe,
            Err(error) => assert!(Instant::now() < patience, "{name} is not read: {error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn lines(files: &[&str]) -> String {
    files.iter().map(|file| format!("{ABC}  {file}\n")).collect()
}

/// A process; killed when it is dropped before its end.
struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(|pipe| thread::spawn(|| std::io::read_to_string(pipe).unwrap()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { child, stdout, stderr, said: String::new() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Interrupts it, and waits until it has noticed.
    fn interrupt(&mut self, signal: Signal) {
        self.signal(signal);
        while !self.said.contains("stopping") {
            assert_ne!(self.stderr.read_line(&mut self.said).unwrap(), 0, "it ends: {}", self.said);
        }
    }

    fn end(mut self) -> Ended {
        let patience = Instant::now() + HANG;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < patience, "it does not end");
            thread::sleep(Duration::from_millis(2));
        };
        self.stderr.read_to_string(&mut self.said).unwrap();
        let stdout = self.stdout.take().map(|reader| reader.join().unwrap()).unwrap_or_default();
        Ended { code: status.code(), signal: status.signal(), stdout, stderr: mem::take(&mut self.said) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, which is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process ended, and what it said.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: Command) -> Ended {
    Running::start(command).end()
}

/// What is listed as skipped.
fn skipped(stderr: &str) -> Vec<&str> {
    stderr
        .lines()
        .filter_map(|line| line.strip_prefix("hash: skipped: "))
        .map(|path| path.trim_matches('"'))
        .collect()
}

#[test]
fn files_come_in_the_order_given_and_those_of_a_folder_sorted_by_path() {
    let folder = folder(&["z", "tree/b", "tree/a/c", "tree/a.txt", "a"]);
    let ended = run(hash(folder.path(), &["z", "tree", "a"]));
    assert_eq!(ended.stdout, lines(&["z", "tree/a.txt", "tree/a/c", "tree/b", "a"]));
    assert_eq!(ended.code, Some(0));
}

#[test]
fn the_order_is_the_same_when_the_first_file_takes_longest() {
    let folder = folder(&["b", "c", "d"]);
    pipe(folder.path(), "first");
    pipe(folder.path(), "last");
    let running = Running::start(hash(folder.path(), &["--jobs", "2", "first", "b", "c", "d", "last"]));
    let mut first = begun(folder.path(), "first");
    // All between have been taken by the other thread now.
    let mut last = begun(folder.path(), "last");
    last.write_all(b"abc").unwrap();
    drop(last);
    first.write_all(b"abc").unwrap();
    drop(first);
    let ended = running.end();
    assert_eq!(ended.stdout, lines(&["first", "b", "c", "d", "last"]));
    assert_eq!(ended.code, Some(0));
}

#[test]
fn the_output_is_that_of_sha256sum_over_a_real_tree() {
    if Command::new("sha256sum").arg("--version").output().is_err() {
        eprintln!("skipped: there is no sha256sum on this machine to compare with");
        return;
    }
    // The sources of this workspace, and names that need care.
    let odd =
        folder(&["with space", "back\\slash", "new\nline", "carriage\rreturn", "ü", "empty", ".hidden"]);
    fs::write(odd.path().join("empty"), "").unwrap();
    fs::write(odd.path().join("large"), vec![7; 3 * 128 * 1024 + 1]).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for tree in [examples, odd.path()] {
        let script = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
        let theirs = Command::new("sh").args(["-c", script]).current_dir(tree).output().unwrap();
        let ours = run(hash(tree, &["."]));
        assert_eq!((ours.code, &*ours.stderr), (Some(0), ""));
        assert!(!ours.stdout.is_empty());
        assert_eq!(ours.stdout, String::from_utf8(theirs.stdout).unwrap());
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_hashed() {
    let folder = folder(&["a", "b"]);
    let ended = run(hash(folder.path(), &["a", "missing", "b"]));
    assert_eq!(ended.stdout, lines(&["a", "b"]));
    let stderr = ended.stderr;
    assert!(stderr.starts_with("hash: \"missing\": ") && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(ended.code, Some(1));
}

#[test]
fn a_path_in_a_message_stays_on_its_line() {
    let folder = folder(&[]);
    let ended = run(hash(folder.path(), &["no\nsuch\u{1b}[31m"]));
    let stderr = ended.stderr;
    assert!(stderr.contains(r#""no\nsuch\u{1b}[31m""#) && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn wrong_usage_exits_with_2_and_hashes_nothing() {
    let folder = folder(&["a"]);
    for arguments in [&[][..], &["--jobs", "0", "a"], &["--drain-ms", "soon", "a"], &["--no-such", "a"]] {
        let ended = run(hash(folder.path(), arguments));
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{arguments:?}");
    }
}

#[test]
fn an_empty_folder_is_no_error() {
    let folder = folder(&[]);
    let ended = run(hash(folder.path(), &["."]));
    assert_eq!((ended.code, ended.stdout.len(), ended.stderr.len()), (Some(0), 0, 0));
}

#[test]
fn in_a_folder_only_regular_files_are_read() {
    let folder = folder(&["tree/a"]);
    pipe(folder.path(), "tree/pipe");
    std::os::unix::fs::symlink("a", folder.path().join("tree/link")).unwrap();
    let ended = run(hash(folder.path(), &["tree"]));
    assert_eq!((ended.code, ended.stdout), (Some(0), lines(&["tree/a"])));
}

#[test]
fn ctrl_c_ends_within_the_budget_and_lists_what_it_skipped() {
    for (signal, expected) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let folder = folder(&["a", "b", "c"]);
        pipe(folder.path(), "slow");
        let arguments = ["--jobs", "1", "--drain-ms", "50", "a", "slow", "b", "c"];
        let mut running = Running::start(hash(folder.path(), &arguments));
        let kept = begun(folder.path(), "slow");
        running.interrupt(signal);
        let Ended { code, stdout, stderr, .. } = running.end();
        assert_eq!(stdout, lines(&["a"]));
        assert_eq!(skipped(&stderr), ["slow", "b", "c"]);
        assert_eq!(code, Some(expected), "{stderr}");
        drop(kept);
    }
}

#[test]
fn ctrl_c_lets_the_file_in_hand_finish() {
    let folder = folder(&["a", "b", "c", "d"]);
    pipe(folder.path(), "slow");
    let hang = HANG.as_millis().to_string();
    let arguments = ["--jobs", "1", "--drain-ms", &hang, "a", "slow", "b", "c", "d"];
    let mut running = Running::start(hash(folder.path(), &arguments));
    let mut slow = begun(folder.path(), "slow");
    running.interrupt(Signal::INT);
    slow.write_all(b"abc").unwrap();
    drop(slow);
    let Ended { code, stdout, stderr, .. } = running.end();
    assert!(stdout.starts_with(&lines(&["a", "slow"])), "{stdout}");
    // `b` may have been accepted by then; for more there is no room beside `slow`.
    let skipped = skipped(&stderr);
    assert!(skipped.ends_with(&["c", "d"]), "{skipped:?}");
    assert_eq!(stdout.lines().count() + skipped.len(), 5, "{stdout}{stderr}");
    assert_eq!(code, Some(130));
}

#[test]
fn a_second_ctrl_c_ends_it_at_once() {
    let folder = folder(&[]);
    pipe(folder.path(), "slow");
    let hang = (2 * HANG).as_millis().to_string();
    let mut running = Running::start(hash(folder.path(), &["--drain-ms", &hang, "slow"]));
    let kept = begun(folder.path(), "slow");
    running.interrupt(Signal::INT);
    running.signal(Signal::INT);
    let ended = running.end();
    assert_eq!(ended.signal, Some(Signal::INT.as_raw()));
    drop(kept);
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_without_a_word() {
    let folder = folder(&["a"]);
    // A pipe whose reading end is gone. The shell makes it, since no other process must inherit that end.
    let gone = r#"mkfifo out && exec 3<>out 4>out 3<&- && exec "$0" a >&4 4>&-"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", gone, env!("CARGO_BIN_EXE_hash")]).current_dir(folder.path());
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = run(shell);
    assert_eq!((ended.code, &*ended.stderr), (Some(1), ""));
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let folder = folder(&["a"]);
    let mut command = hash(folder.path(), &["a"]);
    command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let ended = run(command);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("hash: cannot write: "), "{ended:?}");
}

#[test]
fn there_is_a_bar_on_a_terminal_and_none_on_a_pipe() {
    let folder = folder(&["a", "b"]);
    let ended = run(hash(folder.path(), &["a", "b"]));
    assert_eq!((&*ended.stdout, &*ended.stderr), (&*lines(&["a", "b"]), ""));

    // `script` gives its command a terminal.
    let on_terminal = |command: &str| {
        let mut script = Command::new("script");
        script.args(["-qec", command, "/dev/null"]).current_dir(folder.path()).stdin(Stdio::null());
        script.output().ok().map(|output| String::from_utf8(output.stdout).unwrap())
    };
    let hash = env!("CARGO_BIN_EXE_hash");
    let Some(shown) = on_terminal(&format!("'{hash}' a b")) else {
        eprintln!("skipped: there is no `script` (bsdutils) on this machine to make a terminal");
        return;
    };
    assert!(shown.contains("/2 files"), "{shown:?}");
    assert!(shown.contains(&format!("{ABC}  b")), "{shown:?}");
    let piped = on_terminal(&format!("'{hash}' a b | cat")).unwrap();
    assert!(piped.contains(&format!("{ABC}  b")) && !piped.contains("files"), "{piped:?}");
}
