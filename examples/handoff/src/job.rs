//! A job: what is asked for, how it is written on the stream, and how it is done.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use inflight::{BoxError, Context};
use redis::{FromRedisValue, Value};
use uuid::Uuid;

/// What somebody asked for. It keeps its id for good, so that who does it twice can tell.
#[derive(Clone, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) text: String,
}

/// One line, whatever the text is.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.id.escape_debug(), self.text)
    }
}

/// An entry of the stream that is no job.
#[derive(Debug)]
pub(crate) struct BadEntry {
    field: &'static str,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the entry has no field `{}` with text in it", self.field)
    }
}

impl Error for BadEntry {}

impl Job {
    pub(crate) fn new(text: String) -> Self {
        Job { id: Uuid::new_v4().to_string(), text }
    }

    pub(crate) fn fields(&self) -> [(&str, &str); 2] {
        [("id", &self.id), ("text", &self.text)]
    }

    pub(crate) fn from_fields(fields: &HashMap<String, Value>) -> Result<Self, BadEntry> {
        let text = |field| {
            let value = fields.get(field).cloned();
            value.and_then(|value| String::from_redis_value(value).ok()).ok_or(BadEntry { field })
        };
        Ok(Job { id: text("id")?, text: text("text")? })
    }

    /// The work: here a pause, and a failure if the text begins with `fail`. It notices when it is cancelled, and
    /// what it does may be done again.
    pub(crate) fn perform(&self, cx: &Context, takes: Duration) -> Result<(), BoxError> {
        cx.sleep(takes)?;
        if self.text.starts_with("fail") { Err("as it was asked to".into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_as_it_was_written() {
        let job = Job::new("tea, \"green\"\n\u{202e}".into());
        let fields = job.fields().map(|(field, text)| (field.to_owned(), Value::BulkString(text.into())));
        assert_eq!(Job::from_fields(&fields.into()).unwrap(), job);
    }

    #[test]
    fn an_entry_that_is_no_job_says_what_is_missing() {
        let fields = HashMap::from([("id".to_owned(), Value::BulkString(b"1".into()))]);
        assert!(Job::from_fields(&fields).unwrap_err().to_string().contains("`text`"));
    }
}
