//! The way in: a socket, and a task for each request that comes through it.
//!
//! tiny_http takes connections and reads the heads of requests on threads of its own, and queues them. From there
//! each is a task of the manager `requests`: no request waits behind another, a panic ends one of them alone, and
//! the end can wait until all are answered. tiny_http has no timeouts, so a client that announces a body and sends
//! none holds the task that reads it: that wait has a limit.

use std::fmt;
use std::io::{self, Write};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use inflight::{Manager, Rejected};
use tiny_http::{Header, Request, Response};

use crate::http::{self, Reply};

/// From a request to its reply, on the thread of its task.
pub(crate) type Route = Arc<dyn Fn(&mut Request) -> Reply + Send + Sync>;

/// What a task of `requests` is about.
pub(crate) struct Incoming {
    method: String,
    url: String,
    from: Option<SocketAddr>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.escape_debug(), self.url.escape_debug())?;
        self.from.map_or(Ok(()), |from| write!(f, " from {from}"))
    }
}

pub(crate) struct Server {
    queue: tiny_http::Server,
}

/// A second handle of the socket that tiny_http accepts from.
///
/// tiny_http closes its own only with its queue, which is still needed then: what came through the door before
/// it was closed is to be answered.
pub(crate) struct Door {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens on loopback.
    pub(crate) fn open(port: u16) -> io::Result<(Server, Door)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let door = Door { listener: listener.try_clone()?, address: listener.local_addr()? };
        let queue = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        Ok((Server { queue }, door))
    }

    /// Hands over the requests as they come, until the door is closed or `stop` is called. All that came before
    /// has been handed over then.
    pub(crate) fn serve(&self, requests: &Manager<Incoming>, route: &Route) -> io::Error {
        loop {
            match self.queue.recv() {
                Ok(request) => hand_over(request, requests, route),
                Err(end) => return end,
            }
        }
    }

    /// Makes `serve` return, now or when it is next called.
    pub(crate) fn stop(&self) {
        self.queue.unblock();
    }

    /// Hands over what has come since `serve` returned.
    pub(crate) fn serve_the_rest(&self, requests: &Manager<Incoming>, route: &Route) {
        while let Ok(Some(request)) = self.queue.try_recv() {
            hand_over(request, requests, route);
        }
    }
}

impl Door {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections are refused from here on; `serve` returns.
    ///
    /// Both handles of the socket share its mode. Once it does not block, tiny_http's thread takes the
    /// connections that are waiting, finds no more, and gives up with an error, which `serve` meets behind the
    /// requests that were queued before. A connection wakes that thread if it was blocked already.
    pub(crate) fn close(self) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).map(drop)
    }
}

fn hand_over(request: Request, requests: &Manager<Incoming>, route: &Route) {
    let incoming = Incoming {
        method: request.method().to_string(),
        url: request.url().to_owned(),
        from: request.remote_addr().copied(),
    };
    let route = Arc::clone(route);
    let taken = requests.run(incoming, move |_cx| {
        answer(&*route, request);
        Ok(())
    });
    if let Err(rejected) = taken {
        answer_here(rejected);
    }
}

/// There is no thread to be had, or the server is at its end: a late answer is better than none.
fn answer_here(rejected: Rejected<Incoming>) {
    let about = format!("{:?}", rejected.meta());
    if let Err(error) = rejected.run_here() {
        tracing::error!("{about}: {error}");
    }
}

fn answer(route: &dyn Fn(&mut Request) -> Reply, mut request: Request) {
    if request.body_length() > Some(DISCARDED_AT_MOST) {
        return refuse_unread(request);
    }
    let reply = route(&mut request);
    let mut response = Response::from_string(reply.body).with_status_code(reply.status);
    for (field, value) in reply.headers {
        response.add_header(header(field, value));
    }
    // A client that left without its answer has lost nothing else by that.
    let _ = request.respond(response);
}

fn header(field: &'static str, value: &'static str) -> Header {
    Header::from_bytes(field, value).expect("the headers of this server are ASCII")
}

/// The longest unread body that tiny_http is left to read and discard.
const DISCARDED_AT_MOST: usize = 1 << 20;

/// Answers a request whose body must be neither read nor discarded.
///
/// tiny_http 0.12 discards an unread body through a buffer of its whole announced length: one header with many
/// digits would abort the process, and lose every order in it (tiny_http's issue 252). So the connection is taken
/// from it, which it allows for an upgrade only, hence an interim response first; and leaked, at the cost of a
/// thread and a socket for each such client.
fn refuse_unread(request: Request) {
    let Reply { status, headers, body } = http::too_long();
    let mut connection = request.upgrade("none", Response::empty(100));
    let headers: String = headers.iter().map(|(field, value)| format!("{field}: {value}\r\n")).collect();
    let length = body.len();
    let _ = write!(
        connection,
        "HTTP/1.1 {status} Payload Too Large\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let _ = connection.flush();
    mem::forget(connection);
}
