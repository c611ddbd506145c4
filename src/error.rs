//! What can go wrong, and what became of it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::info::TaskInfo;
use crate::task::Task;

/// What a task fails with: any error that `?` can box.
///
/// ```
/// use inflight::BoxError;
/// fn parse(text: &str) -> Result<u32, BoxError> {
///     Ok(text.trim().parse()?)
/// }
/// assert!(parse("tea").is_err());
/// ```
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a task did not succeed.
///
/// `std::thread::JoinHandle::join` answers with a bare panic payload; this tells a failure from a panic, a
/// cancellation, a timeout, and a task that a shutdown had to give up. It is `Clone`, since a hook and a
/// [`Handle`](crate::Handle) may both be told.
///
/// ```
/// use inflight::{Manager, TaskError};
///
/// let manager: Manager<&str> = Manager::new();
/// let handle = manager.spawn("parse", |_cx| Ok("tea".parse::<u32>()?))?;
/// match handle.join() {
///     Err(TaskError::Failed(error)) => assert_eq!(error.to_string(), "invalid digit found in string"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task returned this error. It displays as that error, and its `source` is that error's.
    Failed(Arc<dyn Error + Send + Sync>),
    /// The task panicked with this message.
    Panicked(String),
    /// The task was cancelled: before it ran, or it was told so and returned an error.
    ///
    /// An error counts as this (or as [`TimedOut`](TaskError::TimedOut)) when the attempt's context is
    /// cancelled, and its [`check`](crate::Context::check) or [`sleep`](crate::Context::sleep) has answered
    /// [`Cancelled`](crate::Cancelled) in this attempt, or that is in the error's chain of sources. Any other
    /// error stays what it is.
    Cancelled,
    /// The task's [`timeout`](crate::scoped::Task::timeout) had passed, and it returned an error because of it.
    TimedOut,
    /// A shutdown had used up its budget before the task could run (again).
    Abandoned,
}

// The error inside is only ever read, through `Display`, `Debug` and `source`.
impl UnwindSafe for TaskError {}
impl RefUnwindSafe for TaskError {}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Failed(error) => fmt::Display::fmt(error, f),
            TaskError::Panicked(message) => write!(f, "the task panicked: {message}"),
            TaskError::Cancelled => f.write_str("the task was cancelled"),
            TaskError::TimedOut => f.write_str("the task ran into its timeout"),
            TaskError::Abandoned => {
                f.write_str("the task was given up: a shutdown had used up its budget before it could run")
            }
        }
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TaskError::Failed(error) => error.source(),
            _ => None,
        }
    }
}

/// Why a task was not accepted.
///
/// ```
/// use inflight::{Manager, Reason};
/// let manager = Manager::new();
/// manager.close();
/// let rejected = manager.run("late", |_cx| Ok(())).expect_err("it is closed");
/// assert!(matches!(rejected.reason(), Reason::Closed));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The manager has been closed.
    Closed,
    /// As many tasks as [`max_pending`](crate::Builder::max_pending) allows have not started yet, and the
    /// submitter does not wait: it called `try_run_task`, or is in a call-out of the same manager.
    Full,
    /// The operating system refused a thread, and there is no other that could run the task.
    Spawn(io::Error),
}

// The error inside is only ever read.
impl UnwindSafe for Reason {}
impl RefUnwindSafe for Reason {}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Closed => f.write_str("the manager is closed"),
            Reason::Full => f.write_str("the backlog is full"),
            Reason::Spawn(error) => write!(f, "no thread could be started: {error}"),
        }
    }
}

/// A task that was not accepted, whole: its closure and its Meta, never run.
///
/// The likes of `mpsc::SendError`: what could not be taken comes back. See
/// [`inflight::Rejected`](crate::Rejected), its alias for tasks that borrow nothing.
///
/// ```
/// use inflight::Manager;
///
/// let manager = Manager::new();
/// manager.close();
/// if let Err(rejected) = manager.run("flush", |_cx| Ok(())) {
///     eprintln!("{rejected}: running {} right here", rejected.meta());
///     rejected.run_here()?;
/// }
/// # Ok::<(), inflight::TaskError>(())
/// ```
#[must_use = "the rejected task is in here, and is dropped with it"]
pub struct Rejected<'a, Meta>(Box<Inner<'a, Meta>>);

struct Inner<'a, Meta> {
    task: Task<'a, Meta>,
    reason: Reason,
}

impl<Meta> UnwindSafe for Rejected<'_, Meta> {}
impl<Meta> RefUnwindSafe for Rejected<'_, Meta> {}

impl<'a, Meta> Rejected<'a, Meta> {
    pub(crate) fn new(task: Task<'a, Meta>, reason: Reason) -> Self {
        Rejected(Box::new(Inner { task, reason }))
    }

    /// Why it was not accepted.
    ///
    /// ```
    /// use inflight::{Manager, Reason, Task};
    /// let manager = Manager::new();
    /// manager.close();
    /// let rejected = manager.run_task(Task::once((), |_cx| Ok(()))).expect_err("it is closed");
    /// assert!(matches!(rejected.reason(), Reason::Closed));
    /// ```
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.0.reason
    }

    /// The task's Meta.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// manager.close();
    /// let rejected = manager.run("receipt", |_cx| Ok(())).expect_err("it is closed");
    /// assert_eq!(*rejected.meta(), "receipt");
    /// ```
    #[must_use]
    pub fn meta(&self) -> &Meta {
        self.0.task.meta()
    }

    /// The task itself, to be submitted again, here or elsewhere, with all its options.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// manager.close();
    /// let rejected = manager.run("receipt", |_cx| Ok(())).expect_err("it is closed");
    ///
    /// let other = inflight::Manager::new();
    /// other.run_task(rejected.into_task())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the task is dropped unless it is submitted again"]
    pub fn into_task(self) -> Task<'a, Meta> {
        self.0.task
    }

    /// Runs the task on this thread: one attempt, without hooks, not counted by any manager. Its options
    /// (delay, retry, period) do not apply; its context's values do.
    ///
    /// # Errors
    /// What became of the attempt, a panic included.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// manager.close();
    /// let rejected = manager.run("receipt", |_cx| panic!("no paper")).expect_err("it is closed");
    /// assert_eq!(rejected.run_here().unwrap_err().to_string(), "the task panicked: no paper");
    /// ```
    pub fn run_here(self) -> Result<(), TaskError> {
        self.0.task.run_here()
    }
}

impl<Meta> fmt::Debug for Rejected<'_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.0.reason).finish_non_exhaustive()
    }
}

impl<Meta> fmt::Display for Rejected<'_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task was not accepted: {}", self.0.reason)?;
        f.write_str(match self.0.reason {
            Reason::Closed => "; run it here with `run_here`, or hand `into_task` to another manager",
            Reason::Full => "; submit it again later, or run it here with `run_here`",
            Reason::Spawn(_) => "; free some threads or raise the limit, or run it here with `run_here`",
        })
    }
}

impl<Meta> Error for Rejected<'_, Meta> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.reason {
            Reason::Spawn(error) => Some(error),
            _ => None,
        }
    }
}

/// The tasks that were still live when the time was up.
///
/// `Display` and `Debug` print the same table, one task a line, so that a `main` that returns this error says
/// which tasks held it up, and since when. Meta stands there as `{:?}`; [`table`](Unfinished::table) writes it
/// in another way. See [`inflight::Unfinished`](crate::Unfinished), its alias for tasks that borrow nothing.
///
/// ```
/// use inflight::{Grace, Manager};
/// use std::time::Duration;
///
/// let manager = Manager::new();
/// let (open, gate) = std::sync::mpsc::channel::<()>();
/// manager.run("backup", move |_cx| Ok(gate.recv()?))?;
/// let unfinished = manager.shutdown(Grace::drain(Duration::from_millis(5))).unwrap_err();
/// assert_eq!(*unfinished.tasks()[0].meta(), "backup");
/// assert!(unfinished.to_string().contains("\"backup\""));
/// # drop(open);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Unfinished<'a, Meta>(Vec<TaskInfo<'a, Meta>>);

impl<Meta> UnwindSafe for Unfinished<'_, Meta> {}
impl<Meta> RefUnwindSafe for Unfinished<'_, Meta> {}

impl<'a, Meta> Unfinished<'a, Meta> {
    pub(crate) fn new(tasks: Vec<TaskInfo<'a, Meta>>) -> Self {
        Unfinished(tasks)
    }

    /// The tasks, oldest first, as they were when the time was up.
    ///
    /// ```
    /// use std::time::Duration;
    /// let manager = inflight::Manager::new();
    /// let (open, gate) = std::sync::mpsc::channel::<()>();
    /// manager.run("backup", move |_cx| Ok(gate.recv()?))?;
    /// let unfinished = manager.wait_timeout(Duration::ZERO).unwrap_err();
    /// assert_eq!(unfinished.tasks().len(), 1);
    /// # drop(open);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn tasks(&self) -> &[TaskInfo<'a, Meta>] {
        &self.0
    }

    /// The table, with each Meta as `write` puts it: for a Meta that is no `Debug`, or reads better otherwise.
    ///
    /// ```
    /// use std::time::Duration;
    /// struct Order { id: u32 }
    /// let manager = inflight::Manager::new();
    /// let (open, gate) = std::sync::mpsc::channel::<()>();
    /// manager.run(Order { id: 17 }, move |_cx| Ok(gate.recv()?))?;
    /// if let Err(unfinished) = manager.wait_timeout(Duration::ZERO) {
    ///     eprintln!("{}", unfinished.table(|order, f| write!(f, "order {}", order.id)));
    /// }
    /// # drop(open);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn table<F>(&self, write: F) -> impl fmt::Display
    where
        F: Fn(&Meta, &mut fmt::Formatter<'_>) -> fmt::Result,
    {
        Table { tasks: &self.0, write }
    }
}

impl<Meta: fmt::Debug> fmt::Display for Unfinished<'_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Table { tasks: &self.0, write: |meta: &Meta, f: &mut fmt::Formatter<'_>| write!(f, "{meta:?}") }
            .fmt(f)
    }
}

impl<Meta: fmt::Debug> fmt::Debug for Unfinished<'_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<Meta: fmt::Debug> Error for Unfinished<'_, Meta> {}

struct Table<'t, 'a, Meta, F> {
    tasks: &'t [TaskInfo<'a, Meta>],
    write: F,
}

/// One Meta as the user's function writes it.
pub(crate) struct Written<'m, Meta, F> {
    pub(crate) meta: &'m Meta,
    pub(crate) write: &'m F,
}

impl<Meta, F> fmt::Display for Written<'_, Meta, F>
where
    F: Fn(&Meta, &mut fmt::Formatter<'_>) -> fmt::Result,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.write)(self.meta, f)
    }
}

const COLUMNS: [&str; 7] = ["id", "task", "phase", "age", "attempt", "thread", "progress"];

impl<Meta, F> Table<'_, '_, Meta, F>
where
    F: Fn(&Meta, &mut fmt::Formatter<'_>) -> fmt::Result,
{
    fn row(&self, task: &TaskInfo<'_, Meta>) -> Result<[String; 7], fmt::Error> {
        let mut meta = String::new();
        write!(meta, "{}", Written { meta: task.meta(), write: &self.write })?;
        Ok([
            task.id().to_string(),
            one_line(&meta).into_owned(),
            task.phase().to_string(),
            seconds(task.age()),
            task.attempt().to_string(),
            task.thread().map_or_else(|| "-".into(), |name| one_line(name).into_owned()),
            task.progress().map_or_else(|| "-".into(), |note| one_line(note).into_owned()),
        ])
    }
}

impl<Meta, F> fmt::Display for Table<'_, '_, Meta, F>
where
    F: Fn(&Meta, &mut fmt::Formatter<'_>) -> fmt::Result,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.tasks.iter().map(|task| self.row(task)).collect::<Result<Vec<_>, _>>()?;
        let mut widths = COLUMNS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let plural = if rows.len() == 1 { "" } else { "s" };
        write!(f, "{} task{plural} unfinished", rows.len())?;
        for row in std::iter::once(&COLUMNS.map(str::to_owned)).chain(&rows) {
            f.write_str("\n ")?;
            for ((column, cell), width) in row.iter().enumerate().zip(widths) {
                // Behind the last column nothing stands, no space either.
                if column + 1 == COLUMNS.len() {
                    write!(f, " {cell}")?;
                } else {
                    write!(f, " {cell:width$} ")?;
                }
            }
        }
        Ok(())
    }
}

/// `text` with what would break its line, or reorder it on a terminal, escaped.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    let breaks = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(breaks) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if breaks(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    Cow::Owned(line)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// A [`Builder`](crate::Builder) was asked for what makes no sense.
///
/// ```
/// use inflight::{BuildError, Manager};
/// let refused = Manager::<()>::builder().max_threads(0).build();
/// assert!(matches!(refused, Err(BuildError::NoThreads)));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// `max_threads(0)`: nothing could ever run.
    NoThreads,
    /// `max_pending(0)`: nothing could ever be accepted.
    NoPending,
    /// The name has a NUL byte in it, which no thread's name may have.
    Name(String),
    /// Two options exclude each other.
    Contradiction(&'static str, &'static str),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::NoThreads => {
                f.write_str("max_threads is 0, so no task could ever run: allow at least 1")
            }
            BuildError::NoPending => {
                f.write_str("max_pending is 0, so no task could ever be accepted: allow at least 1")
            }
            BuildError::Name(name) => {
                write!(f, "the name {name:?} has a NUL byte, which thread names cannot have: take it out")
            }
            BuildError::Contradiction(one, other) => {
                write!(f, "{one} and {other} exclude each other: choose one")
            }
        }
    }
}

impl Error for BuildError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_task_displays_as_its_error_and_hands_on_its_source() {
        #[derive(Debug)]
        struct Outer(fmt::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no paper")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = TaskError::Failed(Arc::new(Outer(fmt::Error)));
        assert_eq!(error.to_string(), "no paper");
        assert!(error.source().is_some_and(|source| source.is::<fmt::Error>()));
    }

    #[test]
    fn what_would_break_a_line_is_escaped() {
        assert_eq!(one_line("plain"), "plain");
        assert_eq!(one_line("a\nb\r\u{2028}\u{202E}c"), "a\\nb\\r\\u{2028}\\u{202e}c");
    }
}
