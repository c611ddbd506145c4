//! The receipts, in a SQLite file.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use crate::orders::{Order, State, Status};

/// How many ids are taken from the file at a time. Up to as many are skipped at a restart.
const IDS_AT_A_TIME: i64 = 1_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS receipts (
        order_id INTEGER PRIMARY KEY,
        item     TEXT    NOT NULL,
        quantity INTEGER NOT NULL,
        text     TEXT    NOT NULL,
        issued   TEXT    NOT NULL DEFAULT CURRENT_TIMESTAMP
    );
    CREATE TABLE IF NOT EXISTS next_order (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        id   INTEGER NOT NULL
    );
";
const INSERT: &str = "INSERT INTO receipts (order_id, item, quantity, text) VALUES (?1, ?2, ?3, ?4)";
const SELECT: &str = "SELECT item, quantity FROM receipts WHERE order_id = ?1";

/// One connection for all threads: SQLite has one writer at a time, whoever waits for it.
pub(crate) struct Store {
    connection: Mutex<Connection>,
    /// Ids that the file has given to this process, and no order has yet. Locked before `connection`.
    ids: Mutex<Range<i64>>,
}

/// The file cannot be used.
#[derive(Debug)]
pub(crate) struct OpenError {
    path: PathBuf,
    source: rusqlite::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use the database {}: {}", self.path.display(), self.source)
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl Store {
    /// Opens the file, or creates it in a directory that exists.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = prepare(path).map_err(|source| OpenError { path: path.to_owned(), source })?;
        Ok(Store { connection: Mutex::new(connection), ids: Mutex::new(0..0) })
    }

    /// An id that no order on this file had before, whether it came to a receipt or not: a client may still hold
    /// the number of an order that failed in an earlier run.
    pub(crate) fn next_id(&self) -> rusqlite::Result<i64> {
        let mut ids = self.ids.lock().expect("nothing panics while it holds the ids");
        if let Some(id) = ids.next() {
            return Ok(id);
        }
        let end: i64 = self.connection().query_row(
            "INSERT INTO next_order VALUES (1, 1 + ?1 + (SELECT ifnull(max(order_id), 0) FROM receipts))
             ON CONFLICT DO UPDATE SET id = max(id + ?1, excluded.id)
             RETURNING id",
            [IDS_AT_A_TIME],
            |row| row.get(0),
        )?;
        *ids = end - IDS_AT_A_TIME + 1..end;
        Ok(end - IDS_AT_A_TIME)
    }

    pub(crate) fn insert(&self, order: &Order, text: &str) -> rusqlite::Result<()> {
        let connection = self.connection();
        connection.prepare_cached(INSERT)?.execute((order.id, &order.item, order.quantity, text))?;
        Ok(())
    }

    /// The order that a receipt was issued for.
    pub(crate) fn receipt(&self, id: i64) -> rusqlite::Result<Option<Status>> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(SELECT)?;
        select
            .query_row([id], |row| {
                Ok(Status { order: id, item: row.get(0)?, quantity: row.get(1)?, state: State::Succeeded })
            })
            .optional()
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().expect("nothing panics while it holds the connection")
    }
}

fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // With NORMAL a power cut may take the last receipts along. It takes all that is in flight anyway; that the
    // process ends takes none.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(SCHEMA)?;
    // A table of another shape is found out now, not by the first receipt.
    connection.prepare_cached(INSERT)?;
    connection.prepare_cached(SELECT)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn order(id: i64) -> Order {
        Order { id, item: "tea".into(), quantity: 2, simulate: None }
    }

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("orders.db");
        (directory, path)
    }

    #[test]
    fn a_receipt_is_found_again_and_is_issued_once() {
        let (_directory, path) = fresh();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.receipt(17).unwrap(), None);
        store.insert(&order(17), "text").unwrap();
        store.insert(&order(17), "text").unwrap_err();
        let found = store.receipt(17).unwrap().unwrap();
        assert_eq!(found, Status { order: 17, item: "tea".into(), quantity: 2, state: State::Succeeded });
    }

    #[test]
    fn ids_start_at_one_and_have_no_gap_while_the_process_lives() {
        let (_directory, path) = fresh();
        let store = Store::open(&path).unwrap();
        for expected in 1..=2 * IDS_AT_A_TIME + 1 {
            assert_eq!(store.next_id().unwrap(), expected);
        }
    }

    #[test]
    fn no_id_is_given_twice_to_threads_or_to_processes_or_after_a_restart() {
        let (_directory, path) = fresh();
        let mut all: Vec<i64> = Vec::new();
        for _restart in 0..2 {
            let stores = [Store::open(&path).unwrap(), Store::open(&path).unwrap()];
            let take = |store: &Store| (0..700).map(|_| store.next_id().unwrap()).collect::<Vec<_>>();
            let taken = thread::scope(|scope| {
                let threads = [0, 0, 1, 1].map(|store: usize| {
                    let store = &stores[store];
                    scope.spawn(move || take(store))
                });
                threads.map(|thread| thread.join().unwrap()).concat()
            });
            all.extend(taken);
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn ids_begin_above_the_receipts_of_a_file_that_never_counted() {
        let (_directory, path) = fresh();
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().execute_batch("DROP TABLE next_order").unwrap();
        let store = Store::open(&path).unwrap();
        store.insert(&order(41), "text").unwrap();
        assert_eq!(store.next_id().unwrap(), 42);
    }

    #[test]
    fn what_cannot_be_used_is_an_error_that_names_the_file() {
        let (directory, path) = fresh();
        let message = |path: &Path| Store::open(path).map(drop).unwrap_err().to_string();

        let missing = directory.path().join("missing").join("orders.db");
        assert!(message(&missing).contains(&missing.display().to_string()), "{}", message(&missing));

        let text = directory.path().join("text");
        std::fs::write(&text, "not a database, but long enough to be read as the header of one: ".repeat(10))
            .unwrap();
        assert!(message(&text).contains("not a database"), "{}", message(&text));

        Connection::open(&path).unwrap().execute_batch("CREATE TABLE receipts (something_else)").unwrap();
        assert!(message(&path).contains("no column named"), "{}", message(&path));
    }
}
