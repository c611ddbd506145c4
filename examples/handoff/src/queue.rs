//! The stream in Redis: put, take, keep, done.
//!
//! An entry is *pending* from when a worker takes it until that worker is done with it. What is pending and has
//! not been heard of for a while, another worker takes over.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::streams::{
    StreamAutoClaimOptions, StreamAutoClaimReply, StreamClaimOptions, StreamId, StreamReadOptions,
    StreamReadReply,
};
use redis::{Client, Commands, Connection, RedisResult, Value};

use crate::job::{BadEntry, Job};

/// The consumer group of all workers.
const GROUP: &str = "workers";

/// How long one `take` waits for an entry.
const TAKE: Duration = Duration::from_millis(500);

/// How long Redis may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// How long Redis may take to answer. It has to be longer than `TAKE`.
const ANSWER: Duration = Duration::from_secs(5);

/// What a worker has taken: the id of an entry, and the job in it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) job: Result<Job, BadEntry>,
}

pub(crate) struct Queue {
    client: Client,
    stream: String,
    /// Connections that are open and not in use: no more than there were ever in use at once.
    idle: Mutex<Vec<Connection>>,
}

impl Queue {
    /// Connects to nothing yet.
    pub(crate) fn new(client: Client, stream: String) -> Self {
        Queue { client, stream, idle: Mutex::default() }
    }

    /// Puts a job on the stream. If it fails the job may be there all the same: to put it again is safe, it is
    /// done twice at worst.
    pub(crate) fn put(&self, job: &Job) -> RedisResult<()> {
        self.with(|redis| redis.xadd(&self.stream, "*", &job.fields()))
    }

    /// Makes the stream and its group, if there is none.
    pub(crate) fn open(&self) -> RedisResult<()> {
        match self.with(|redis| redis.xgroup_create_mkstream(&self.stream, GROUP, "0")) {
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            made => made,
        }
    }

    /// Takes the next new entry for this consumer; `None` if none comes for a while.
    pub(crate) fn take(&self, consumer: &str) -> RedisResult<Option<Entry>> {
        let options = StreamReadOptions::default().group(GROUP, consumer).count(1).block(millis(TAKE));
        let reply: Option<StreamReadReply> =
            self.with(|redis| redis.xread_options(&[&self.stream], &[">"], &options))?;
        let mut entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        Ok(entries.next().map(entry))
    }

    /// Takes over an entry that no consumer has kept for as long as `idle`. It looks at a few, from `cursor` on.
    pub(crate) fn take_over(
        &self,
        consumer: &str,
        idle: Duration,
        cursor: &mut String,
    ) -> RedisResult<Option<Entry>> {
        let options = StreamAutoClaimOptions::default().count(1);
        let reply: StreamAutoClaimReply = self.with(|redis| {
            redis.xautoclaim_options(&self.stream, GROUP, consumer, millis(idle), &*cursor, options)
        })?;
        *cursor = reply.next_stream_id;
        Ok(reply.claimed.into_iter().next().map(entry))
    }

    /// Says that these entries are still in hand, so that nobody takes them over.
    pub(crate) fn keep(&self, consumer: &str, ids: &[&str]) -> RedisResult<()> {
        if ids.is_empty() {
            return Ok(());
        }
        // Claimed once more by whom they belong to, without counting as a delivery.
        let options = StreamClaimOptions::default().with_justid();
        let _: Vec<String> =
            self.with(|redis| redis.xclaim_options(&self.stream, GROUP, consumer, 0, ids, options))?;
        Ok(())
    }

    /// Acknowledges an entry, and removes it from the stream.
    pub(crate) fn done(&self, id: &str) -> RedisResult<()> {
        let mut both = redis::pipe();
        both.atomic().xack(&self.stream, GROUP, &[id]).ignore().xdel(&self.stream, &[id]).ignore();
        self.with(|redis| both.query(redis))
    }

    /// Lends a connection, and keeps it if all went well: of one that failed nobody knows what it still holds.
    fn with<T>(&self, ask: impl FnOnce(&mut Connection) -> RedisResult<T>) -> RedisResult<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut connection = kept.map_or_else(|| self.connect(), Ok)?;
        let answer = ask(&mut connection)?;
        idle().push(connection);
        Ok(answer)
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(CONNECT)?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.set_write_timeout(Some(ANSWER))?;
        Ok(connection)
    }
}

fn entry(StreamId { id, map, .. }: StreamId) -> Entry {
    let fields: HashMap<String, Value> = map;
    Entry { id, job: Job::from_fields(&fields) }
}

fn millis(duration: Duration) -> usize {
    usize::try_from(duration.as_millis()).unwrap_or(usize::MAX)
}
